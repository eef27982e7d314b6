"""F3: which blocks of the KV cache belong to which request. Host bookkeeping only."""
