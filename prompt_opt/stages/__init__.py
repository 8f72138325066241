"""The stages urial, opo and bpo."""
