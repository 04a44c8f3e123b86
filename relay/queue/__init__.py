"""Lanes: which delivery starts next, and how often, for every endpoint (Q1–Q5).

Read `memory` (what a lane knows of the database), `lane` (how much one endpoint gets), `slots` (how much there is for
whom) and `turns` (whose turn it is), then `lanes`, which puts them together; `refills` says who reads the database when.
All are plain state: no I/O, no clock, no randomness of their own. Whoever holds a `Lanes` owns it; it is called from one
thread.
"""

from relay.queue.health import Suspension
from relay.queue.lane import LaneSettings
from relay.queue.lanes import Lanes, LaneView, Start
from relay.queue.refills import Refill

__all__ = ["LaneSettings", "LaneView", "Lanes", "Refill", "Start", "Suspension"]
