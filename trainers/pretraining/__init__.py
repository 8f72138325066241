"""Pretraining on plain text, and the corpus of the embedded model."""
