"""Answers served by Trimtab, preferences, training, export, and the new model beside the old one: again and again."""
