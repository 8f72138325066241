"""The line that a request for an answer travels."""
