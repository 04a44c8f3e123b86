"""Measurements: the relay against the bare pipeline, on the same machine, on the same work."""
