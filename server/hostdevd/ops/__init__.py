"""What an operator needs around the service: logs, metrics, audit, systemd."""
