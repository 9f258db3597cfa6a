"""Training of the two small Python-code models that ship inside the package."""
