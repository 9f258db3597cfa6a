"""`ellm simulate` and what it shares with `ellm plan`."""
