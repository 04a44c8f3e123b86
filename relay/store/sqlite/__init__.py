"""SQLite behind the store: one writing connection in a thread of our own, readers that cannot write."""
