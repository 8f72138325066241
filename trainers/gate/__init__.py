"""Trains the model by which the rewrite gate judges what a rewrite adds."""
