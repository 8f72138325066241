"""Intervals and tests for an evaluation; the question is the unit of everything."""
