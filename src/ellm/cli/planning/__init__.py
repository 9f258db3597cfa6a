"""`ellm plan`: the best way to divide a model over devices."""
