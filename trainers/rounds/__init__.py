"""Rounds: sample answers, score them, select, train, and again with what was trained."""
