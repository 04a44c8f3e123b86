"""The process: its life from open to close, signals, the service manager."""
