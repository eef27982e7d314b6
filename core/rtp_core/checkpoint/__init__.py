"""F3: where a model's files come from, and what is in them."""
