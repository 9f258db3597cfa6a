"""One random number per request and position, out of a hash instead of a generator.

Nothing is drawn in order, so nothing depends on order: a request gets the same numbers alone, in
any batch, and again after it was preempted.

Source: the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
Generators", OOPSLA 2014, section 5), used as a counter-based generator.
"""

from __future__ import annotations

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(value: int) -> int:
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def uniform(seed: int, position: int) -> float:
    """A multiple of 2**-24 in [0, 1), so that float32 holds it exactly and never rounds it to 1."""
    return (_mix(_mix(seed & _MASK) + position * _GOLDEN) >> 40) * 2.0**-24
