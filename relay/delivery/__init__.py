"""One HTTP attempt at a time: names resolved, addresses guarded, a request out, an outcome back."""
