"""A model divided over devices: who holds what, and what must travel."""
