"""What tells people about mistakes in signatures. The daemon runs without it."""
