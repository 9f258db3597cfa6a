"""Who runs next, and how many tokens of each."""
