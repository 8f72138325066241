"""Files to passages, passages to chunks and to search terms."""
