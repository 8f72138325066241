"""Wire APIs: how a client's request is read and its answer written."""
