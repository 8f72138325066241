"""Judges and critics: what they are asked, and how their answers are read."""
