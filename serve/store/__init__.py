"""What is kept: traces, feedback and the account."""
