"""Sending deliveries again in bulk: jobs that select, hand over slowly, and survive restarts."""

from relay.replay.replays import MadeReplay, Preview, ReplayDraft, Replays

__all__ = ["MadeReplay", "Preview", "ReplayDraft", "Replays"]
