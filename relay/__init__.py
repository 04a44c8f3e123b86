"""relay: a durable webhook relay for one Linux host."""

__version__ = "0.1.0"
