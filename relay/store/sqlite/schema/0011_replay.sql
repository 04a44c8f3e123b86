-- Replays: jobs that send deliveries again. `wanted` says what is asked for, `ids` which events and deliveries, until they were
-- looked up; `place` how far the selection came, `up_to` where it ends: at the latest event when the replay was made.
CREATE TABLE replay (
  ref          INTEGER PRIMARY KEY,
  id           TEXT NOT NULL UNIQUE,
  application  TEXT,                         -- id; NULL: of all
  mode         TEXT NOT NULL CHECK (mode IN ('failed', 'missing', 'all')),
  wanted       TEXT NOT NULL,                -- JSON
  rate         TEXT NOT NULL,
  force        INTEGER NOT NULL,
  created_by   TEXT NOT NULL,
  is_own       INTEGER NOT NULL,             -- 1: made by the application itself
  created_at   INTEGER NOT NULL,
  up_to        INTEGER NOT NULL,
  state        TEXT NOT NULL CHECK (state IN ('selecting', 'running', 'finished', 'cancelled')),
  place        TEXT NOT NULL DEFAULT '',     -- JSON; '' before the first page
  is_cut       INTEGER NOT NULL DEFAULT 0,   -- 1: there was more than a replay may have
  selected     INTEGER NOT NULL DEFAULT 0,
  replayed     INTEGER NOT NULL DEFAULT 0,
  skipped      TEXT NOT NULL DEFAULT '{}',   -- JSON: how many by reason
  finished_at  INTEGER,
  cancelled_by TEXT,
  ids          TEXT,                         -- JSON
  CHECK ((state IN ('finished', 'cancelled')) = (finished_at IS NOT NULL))
) STRICT;

CREATE INDEX replay_finished ON replay (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX replay_unfinished ON replay (ref) WHERE finished_at IS NULL;

-- What a replay has still before it. An item goes in the transaction that makes its delivery due.
CREATE TABLE replay_item (
  replay   INTEGER NOT NULL,
  endpoint INTEGER NOT NULL,
  event    INTEGER NOT NULL,
  PRIMARY KEY (replay, endpoint, event)
) STRICT, WITHOUT ROWID;

-- How many replays there ever were: none has the ref of another.
INSERT INTO meta (name, value) VALUES ('replays', 0);

-- 0: never sent again; else one more than there were replays when it was last sent again, by hand or by a replay. What was
-- sent again since a replay was made, however that ended, is none of its business any more.
ALTER TABLE delivery ADD COLUMN replayed INTEGER NOT NULL DEFAULT 0;
