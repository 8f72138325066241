"""Stores of principles behind one Protocol: a folder on this machine, or Milvus."""
