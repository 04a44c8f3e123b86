-- Events are found by their ordering key, and by values of their data that a contract declares searchable. Neither costs an
-- event anything that has none.
CREATE INDEX event_ordering_key ON event (ordering_key, created_at) WHERE ordering_key IS NOT NULL;

CREATE TABLE search_value (
  digest     BLOB NOT NULL,                  -- of the place in the data, and the value
  created_at INTEGER NOT NULL,               -- of the event
  event      INTEGER NOT NULL,
  PRIMARY KEY (digest, created_at, event)
) STRICT, WITHOUT ROWID;

CREATE INDEX search_value_event ON search_value (event);
