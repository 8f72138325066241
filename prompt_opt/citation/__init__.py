"""What an answer does with the rules that it was shown: marks, quotations, footnotes."""
