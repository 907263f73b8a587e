"""What can be seen of a running server: Prometheus metrics, log lines, OpenTelemetry traces."""
