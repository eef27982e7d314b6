"""F3: the sampling parameters of a batch, as arrays."""
