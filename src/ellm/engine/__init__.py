"""Plan, launch, land; and the thread that repeats it."""
