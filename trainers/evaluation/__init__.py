"""`trimtab eval`: the same prompts through several arms, and what changed, with intervals."""
