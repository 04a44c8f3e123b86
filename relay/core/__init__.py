"""What every room stands on: time, ids, errors, units, grammars, addresses, access. The standard library only."""
