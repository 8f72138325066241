"""Engines: what they are, how they are reached, and what they answer."""
