"""The arms of an evaluation: what is asked, how, and what came back."""
