"""The report of an evaluation: JSON, an HTML page, and lines for a terminal."""
