"""The question sets: their forms, and how they are read."""
