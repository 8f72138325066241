"""What is kept: traces and feedback."""
