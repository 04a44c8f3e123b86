"""The one loop that owns in-flight work."""
