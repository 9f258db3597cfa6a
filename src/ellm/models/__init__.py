"""One decoder, and a small file per model family that describes it."""
