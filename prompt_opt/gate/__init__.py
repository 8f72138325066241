"""The rewrite gate: rules that a rewrite must pass to replace a prompt."""
