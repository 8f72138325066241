"""What is kept: traces, feedback, changes and the account."""
