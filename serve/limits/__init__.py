"""Limits of keys and tenants."""
