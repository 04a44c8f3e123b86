-- How many bytes of bodies each application has that are still owed to an endpoint, so that nobody has to count. An event
-- counts once, while any of its deliveries is due.
CREATE TABLE owed (
  application INTEGER PRIMARY KEY,
  bytes       INTEGER NOT NULL
) STRICT;

INSERT INTO owed (application, bytes)
SELECT application, sum(length(body)) FROM event
WHERE ordinal IN (SELECT event FROM delivery INDEXED BY delivery_due WHERE state = 0) GROUP BY application;
