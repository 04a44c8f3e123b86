-- An event as other contracts than its application's write it, for those of its endpoints that have one of their own. Most
-- events have none of these.
CREATE TABLE variant (
  event     INTEGER NOT NULL,
  contract  TEXT NOT NULL,
  endpoints TEXT NOT NULL,                   -- JSON: refs of those that it is for
  fault     TEXT NOT NULL,                   -- why the contract cannot write the event; then its body is empty
  checksum  INTEGER NOT NULL,                -- CRC-32 of body
  body      BLOB NOT NULL,
  PRIMARY KEY (event, contract)
) STRICT;
