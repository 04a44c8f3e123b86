-- How many bytes of its event's body each delivery is charged while it is due: its part of it, rounded up. `share` stands in
-- the index so that it covers the sum. Of old events those deliveries share that are due; what had ended costs nothing.
ALTER TABLE delivery ADD COLUMN share INTEGER NOT NULL DEFAULT 0;

UPDATE delivery SET share = (s.size + s.due - 1) / s.due
FROM (SELECT d.event, count(*) AS due, length(e.body) AS size FROM delivery d JOIN event e ON e.ordinal = d.event
      WHERE d.state = 0 GROUP BY d.event) s
WHERE delivery.event = s.event AND delivery.state = 0;

DROP INDEX delivery_due;
CREATE INDEX delivery_due ON delivery (endpoint, due, event, share, state) WHERE state = 0;
