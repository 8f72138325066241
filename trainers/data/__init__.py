"""Training data: files, layouts and rows, and rows as token ids."""
