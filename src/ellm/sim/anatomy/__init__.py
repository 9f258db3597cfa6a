"""A transformer as blocks of cells, in numbers that cost memory and time (APEX, 2411.17651)."""
