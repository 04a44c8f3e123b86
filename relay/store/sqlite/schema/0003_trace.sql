-- How an attempt went over the network, packed: see `rows.packed`. NULL for attempts that an older relay made.
ALTER TABLE attempt ADD COLUMN trace BLOB;
