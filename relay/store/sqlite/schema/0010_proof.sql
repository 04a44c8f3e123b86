-- That a receiver agreed to take events, for endpoints that ask it before the first one: JSON, about `url_seen`. One that took
-- events before anybody could ask is not asked again.
ALTER TABLE endpoint ADD COLUMN proof TEXT;

UPDATE endpoint SET proof = json_object('at_ms', updated_at, 'method', 'none')
WHERE deleted_at IS NULL AND json_extract(health, '$.answered') = 1;
