"""What one sees of a server: OpenTelemetry and logs."""
