-- What people noted about the dead letters of an endpoint that died of one reason.
CREATE TABLE dead_note (
  endpoint INTEGER NOT NULL,
  reason   TEXT NOT NULL,
  note     TEXT NOT NULL,
  noted_by TEXT NOT NULL,
  noted_at INTEGER NOT NULL,
  PRIMARY KEY (endpoint, reason)
) STRICT, WITHOUT ROWID;
