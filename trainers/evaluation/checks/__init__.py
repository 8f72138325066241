"""A release check: limits on what an evaluation has measured, and whether an arm keeps within them."""
