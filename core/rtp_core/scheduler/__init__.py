"""F4: which tokens of which requests run in the next step. Knows no device."""
