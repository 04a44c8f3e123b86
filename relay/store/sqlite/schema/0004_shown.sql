-- What people look at must not cost more where more is kept: the first and the last dead letter of an endpoint and a
-- reason are found by a seek each, their number is counted in the order of the index, and so are endpoints by their id,
-- deleted ones too.
CREATE INDEX delivery_dead_group ON delivery (endpoint, reason, finished_at, event, state) WHERE state = 2;
CREATE INDEX endpoint_named ON endpoint (id);
