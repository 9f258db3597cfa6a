"""Plan, execute, commit; and the thread that repeats it."""
