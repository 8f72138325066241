"""Questions to engines: many at a time, at a rate, every answer on disk before it counts."""
