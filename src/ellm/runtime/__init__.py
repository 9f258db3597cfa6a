"""The device half: addresses become tensors, a plan becomes tokens."""
