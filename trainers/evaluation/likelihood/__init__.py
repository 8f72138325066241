"""Which of several answers a model finds likelier under an arm's whole prompt: no generation, no judge."""
