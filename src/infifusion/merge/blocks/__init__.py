"""Parameter tensors in blocks that fit the cache, and the compiled loops over them."""
