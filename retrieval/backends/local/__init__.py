"""One machine's store: SQLite is the record, FAISS and tantivy are caches of it."""
