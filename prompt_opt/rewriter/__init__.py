"""Asking a rewriter: its template, cache, calls in flight and circuit breaker."""
