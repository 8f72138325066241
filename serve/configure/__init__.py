"""The configuration file and the flags, read and checked."""
