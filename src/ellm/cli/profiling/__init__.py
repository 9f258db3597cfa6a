"""`ellm profile`: what a machine takes to serve a model, for `ellm simulate`."""
