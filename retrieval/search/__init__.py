"""Filling an index, searching it, measuring and tuning its answers."""
