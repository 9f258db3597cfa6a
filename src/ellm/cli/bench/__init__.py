"""Load, latency and throughput, measured as vLLM's `bench` verbs measure them."""
