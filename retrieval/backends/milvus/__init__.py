"""A store in Milvus, for more than one machine holds."""
