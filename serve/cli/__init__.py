"""The one command, `trimtab`."""
