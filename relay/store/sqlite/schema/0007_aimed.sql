-- The endpoints that an event's producer named, for the events that name any: it is for no others, now or later.
CREATE TABLE aimed (
  event    INTEGER NOT NULL,
  endpoint INTEGER NOT NULL,
  PRIMARY KEY (event, endpoint)
) STRICT, WITHOUT ROWID;
