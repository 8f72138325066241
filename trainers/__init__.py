"""Offline: one file per method, each runnable, and the evaluation."""
