"""The training methods, a row and a file each."""
