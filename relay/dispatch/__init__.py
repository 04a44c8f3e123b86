"""The one loop that owns in-flight work.

Read `loop` (what starts, and what memory hears of), then `attempt` (from a start to its settle, and how far a mistake
of our own reaches), then `standing` (what attempts say about their endpoints); `cache` keeps the bodies.
"""
