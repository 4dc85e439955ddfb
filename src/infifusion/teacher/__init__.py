"""The teacher pass: running a model once over the data and caching what it believed."""
