"""One module for each format of file: bytes to pieces."""
