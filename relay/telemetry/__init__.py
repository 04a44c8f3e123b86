"""What the relay says about itself: log lines and metrics."""
