"""One module for each kind of place that bytes go to when they leave the pool."""
