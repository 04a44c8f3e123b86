-- What idempotency keys of calls that make something stand for. Of a key only a digest is here, of a token that was shown once
-- only a seed, from which nobody draws it again without the key.
CREATE TABLE creation_record (
  scope       TEXT NOT NULL,                 -- whose key it is
  key         BLOB NOT NULL,
  fingerprint BLOB NOT NULL,
  seed        BLOB NOT NULL,
  made        TEXT NOT NULL,                 -- JSON: ids by kind, and a mark of the secret
  created_at  INTEGER NOT NULL,
  PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX creation_record_age ON creation_record (created_at);
CREATE INDEX creation_record_scope ON creation_record (scope, created_at);
