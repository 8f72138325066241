"""Every route but those of an answer: models, principles, traces, feedback, explanations, the page."""
