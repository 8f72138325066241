"""The HTTP server: wire, policies, engines, relay, traces and the command."""
