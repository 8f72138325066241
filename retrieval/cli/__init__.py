"""The command `trimtab index`."""
