"""Selectors: pure functions from the scored samples of a prompt to rows that a method learns from."""
