"""F4: from characters to token ids and back."""
