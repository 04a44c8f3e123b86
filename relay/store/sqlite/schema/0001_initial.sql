-- Times are unix milliseconds. `ref` and `ordinal` are handles given out by the writer and never given out twice.

CREATE TABLE meta (
  name  TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO meta (name, value) VALUES
  ('clean', 1),                -- 1: closed properly; 0 while a daemon has it open
  ('probe', 0),                -- written to find out whether writing works again
  ('ordinal_floor', 0),        -- the highest event ordinal that was ever pruned
  ('attempts_pruned_to', 0);   -- attempts of events up to this ordinal were pruned

-- A deleted application stays, so that its history keeps its name; its id is never given again, for whoever bore it
-- next would see that history.
CREATE TABLE application (
  ref           INTEGER PRIMARY KEY,
  id            TEXT NOT NULL UNIQUE,
  origin        TEXT NOT NULL CHECK (origin IN ('file', 'api')),
  definition    TEXT,                        -- JSON; what the file defines stays in the file
  contract_seen TEXT,                        -- the contract that its deliveries were made under
  created_at    INTEGER NOT NULL,
  updated_at    INTEGER NOT NULL,
  deleted_at    INTEGER,
  CHECK ((origin = 'api') = (definition IS NOT NULL))
) STRICT;

-- Tokens made through the API; of their text only the digest is kept.
CREATE TABLE application_key (
  ref         INTEGER PRIMARY KEY,
  id          TEXT NOT NULL UNIQUE,
  application INTEGER NOT NULL REFERENCES application (ref),
  name        TEXT NOT NULL,
  prefix      TEXT NOT NULL,                 -- how the token begins, to tell one from another
  digest      BLOB NOT NULL UNIQUE,          -- SHA-256
  created_at  INTEGER NOT NULL,
  expires_at  INTEGER
) STRICT;

-- A deleted endpoint stays, so that its history keeps its name; its id may then be used again.
CREATE TABLE endpoint (
  ref         INTEGER PRIMARY KEY,
  id          TEXT NOT NULL,
  application INTEGER NOT NULL REFERENCES application (ref),
  origin      TEXT NOT NULL CHECK (origin IN ('file', 'api')),
  definition  TEXT,                          -- JSON; what the file defines stays in the file
  secrets     TEXT NOT NULL DEFAULT '[]',    -- JSON, newest first
  state       TEXT NOT NULL CHECK (state IN ('enabled', 'paused', 'disabled')),
  disabled_by TEXT,
  state_since INTEGER NOT NULL,
  health      TEXT NOT NULL DEFAULT '{}',    -- JSON
  url_seen    TEXT,
  created_at  INTEGER NOT NULL,
  updated_at  INTEGER NOT NULL,
  deleted_at  INTEGER,
  CHECK ((origin = 'api') = (definition IS NOT NULL)),
  CHECK ((state = 'disabled') = (disabled_by IS NOT NULL))
) STRICT;

CREATE UNIQUE INDEX endpoint_id ON endpoint (id) WHERE deleted_at IS NULL;

-- `body` comes last: reading what stands before it never touches its overflow pages.
CREATE TABLE event (
  ordinal       INTEGER PRIMARY KEY,
  id            TEXT NOT NULL UNIQUE,        -- generated ids grow with time, so this index grows at its end
  application   INTEGER NOT NULL,
  type          TEXT NOT NULL,
  created_at    INTEGER NOT NULL,
  timestamp     INTEGER NOT NULL,
  deliver_at    INTEGER,
  expires_at    INTEGER,
  ordering_key  TEXT,
  reason        TEXT CHECK (reason IN ('no_match', 'filtered', 'skipped')),  -- why it has no deliveries
  reason_detail TEXT NOT NULL DEFAULT '',
  checksum      INTEGER NOT NULL,            -- CRC-32 of body
  metadata      BLOB,
  body          BLOB NOT NULL
) STRICT;

CREATE INDEX event_created ON event (created_at);

-- state: 0 due, 1 delivered, 2 dead, 3 cancelled. A due row without a due time waits for its predecessor (Q12).
CREATE TABLE delivery (
  event           INTEGER NOT NULL,
  endpoint        INTEGER NOT NULL,
  state           INTEGER NOT NULL CHECK (state BETWEEN 0 AND 3),
  due             INTEGER,
  series          INTEGER NOT NULL DEFAULT 1,
  attempts        INTEGER NOT NULL DEFAULT 0,   -- over all series
  series_attempts INTEGER NOT NULL DEFAULT 0,
  budget_from     INTEGER NOT NULL,             -- `max_age` counts from here
  manual          INTEGER NOT NULL DEFAULT 0,   -- retried by hand: 1 goes past cool-down, 2 past its expiry too
  finished_at     INTEGER,
  reason          TEXT,
  cancelled_by    TEXT,
  expires_at      INTEGER,
  ordering_key    TEXT,
  blocking        INTEGER NOT NULL DEFAULT 0,   -- holds up its successors: 1 until its first attempt ended, 2 until it ended
  PRIMARY KEY (event, endpoint),
  CHECK (due IS NULL OR state = 0),
  CHECK ((state = 0) = (finished_at IS NULL)),
  CHECK ((state = 2) = (reason IS NOT NULL)),
  CHECK ((state = 3) = (cancelled_by IS NOT NULL)),
  CHECK (blocking = 0 OR (state = 0 AND ordering_key IS NOT NULL))
) STRICT, WITHOUT ROWID;

-- Finding due work must cost the same behind a million rows that are finished or not due yet. `state` stands in both
-- indexes, constant as it is, so that they cover their counts: without it SQLite visits every row (1.5 s instead of
-- 0.05 s for a million).
CREATE INDEX delivery_due ON delivery (endpoint, due, event, state) WHERE state = 0;
CREATE INDEX delivery_dead ON delivery (event, endpoint, reason, finished_at, state) WHERE state = 2;
CREATE INDEX delivery_expiry ON delivery (endpoint, expires_at) WHERE state = 0 AND expires_at IS NOT NULL;
CREATE INDEX delivery_order ON delivery (endpoint, ordering_key, event) WHERE blocking > 0;

CREATE TABLE attempt (
  event      INTEGER NOT NULL,
  endpoint   INTEGER NOT NULL,
  number     INTEGER NOT NULL,
  series     INTEGER NOT NULL,
  manual     INTEGER NOT NULL,
  started_at INTEGER NOT NULL,
  duration   INTEGER NOT NULL,
  status     INTEGER,
  failure    TEXT,
  detail     TEXT NOT NULL,
  address    TEXT,
  PRIMARY KEY (event, endpoint, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE response (
  event    INTEGER NOT NULL,
  endpoint INTEGER NOT NULL,
  number   INTEGER NOT NULL,
  headers  TEXT NOT NULL,                    -- JSON: [[name, value], …]
  body     BLOB NOT NULL,
  PRIMARY KEY (event, endpoint, number)
) STRICT;

-- A random key in a large index is the dear thing, so this holds nothing else; what a repeat is answered with
-- stands in `claim`, in order of time.
CREATE TABLE idempotency (
  application INTEGER NOT NULL,
  key         BLOB NOT NULL,
  event       INTEGER NOT NULL,
  PRIMARY KEY (application, key)
) STRICT, WITHOUT ROWID;

-- Outlives its event: a repeat is answered the same after pruning (Q8).
CREATE TABLE claim (
  event       INTEGER PRIMARY KEY,
  application INTEGER NOT NULL,
  key         BLOB NOT NULL,
  fingerprint BLOB NOT NULL,
  event_id    TEXT NOT NULL,
  type        TEXT NOT NULL,
  created_at  INTEGER NOT NULL,
  deliveries  INTEGER NOT NULL
) STRICT;

-- What events said that later ones need to know, by the contract's key. `value` is cut off at some length.
CREATE TABLE remembered (
  application INTEGER NOT NULL,
  key         TEXT NOT NULL,
  value       TEXT NOT NULL,
  updated_at  INTEGER NOT NULL,
  PRIMARY KEY (application, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX remembered_age ON remembered (application, updated_at);

-- How much each application remembers, so that nobody has to count.
CREATE TABLE remembered_size (
  application INTEGER PRIMARY KEY,
  entries     INTEGER NOT NULL
) STRICT;

CREATE TRIGGER remembered_added AFTER INSERT ON remembered BEGIN
  INSERT INTO remembered_size (application, entries) VALUES (new.application, 1)
  ON CONFLICT (application) DO UPDATE SET entries = entries + 1;
END;

CREATE TRIGGER remembered_removed AFTER DELETE ON remembered BEGIN
  UPDATE remembered_size SET entries = entries - 1 WHERE application = old.application;
END;
