-- A delivery with an ordering key that was cancelled while its attempt was under way; its successors wait for the end of
-- that attempt. Emptied at every start, for no attempt outlives the process.
CREATE TABLE cancelled_head (
  endpoint     INTEGER NOT NULL,
  ordering_key TEXT NOT NULL,
  event        INTEGER NOT NULL,
  PRIMARY KEY (endpoint, ordering_key, event)
) STRICT, WITHOUT ROWID;
