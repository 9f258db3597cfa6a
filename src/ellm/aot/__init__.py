"""Trace a computation once, decide its order, lanes and memory ahead of time, and replay it."""
