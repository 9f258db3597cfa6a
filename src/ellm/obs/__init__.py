"""Counters and snapshots; nothing here decides anything."""
