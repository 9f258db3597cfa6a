"""Chunks, the pool that owns them, and the ranges they appear in."""
