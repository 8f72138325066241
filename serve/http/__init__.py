"""The client's connection, one exchange on it, bodies and headers."""
