"""Finds the best parallel execution plan by simulation (APEX, arXiv 2411.17651)."""
