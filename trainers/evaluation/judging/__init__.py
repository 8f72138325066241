"""A judge's verdicts and marks on an evaluation's answers, and how far it can be trusted."""
