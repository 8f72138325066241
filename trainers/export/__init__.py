"""A finished run as a folder that engines load, checked against what was trained."""
