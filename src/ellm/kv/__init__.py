"""Keys and values: who holds which rows of the arena."""
