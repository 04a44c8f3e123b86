"""Finds out what is wrong with a signature. The daemon runs without it."""
