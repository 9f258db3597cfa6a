"""What the benchmarks share: models, processes, rounds, records and pictures."""
