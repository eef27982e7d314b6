"""F1: where bytes live. Buffers and the arena they come from; no arithmetic."""
