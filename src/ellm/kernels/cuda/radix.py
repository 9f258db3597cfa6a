"""The depth below which so many tokens are, or so much weight: a digit at a time.

    octave ─ 8 bits ─ 8 bits ─ 8 bits        of a depth of 30 bits
       └ tally of the tokens that begin with the digits found so far, by their next one

Tallies are whole numbers, added by many programs: their order changes nothing.  Who reads one finds
the next digit for himself, so that no launch comes between two tallies.  Source of the selection by
digits: Alabi, Blanchard, Gordon, Steinbach, Fast k-selection algorithms for graphics processing
units, 2012 (https://doi.org/10.1145/2133803.2345676), section 3.2.

    slots     int64 [row, count or weight, level, 2]: digits found before a level, and what is left
    tallies   int64 [row, count or weight, level, digit]
"""

from __future__ import annotations

import triton
import triton.language as tl

from ellm.kernels.cuda.depth import depths, highest, weights

LEVELS, DIGITS = 4, 256
SLOTS = 2 * LEVELS * 2
"""Numbers of a row."""
TALLIES = 2 * LEVELS * DIGITS
"""Numbers of a row."""

_LEVELS = tl.constexpr(LEVELS)
_DIGITS = tl.constexpr(DIGITS)
_SLOTS = tl.constexpr(SLOTS)
_TALLIES = tl.constexpr(TALLIES)


@triton.jit
def _few(how: tl.tensor, width: tl.tensor) -> tl.tensor:
    """Whether top_k leaves anything out."""
    top_k = tl.load(how + 2)
    return (top_k > 0) & (top_k < width)


@triton.jit
def _found(
    slots: tl.tensor, tallies: tl.tensor, how: tl.tensor, level: tl.tensor, weighed: tl.tensor
) -> tl.tensor:
    """Digits up to this level, and what is still to come below them, by this level's tally."""
    slots += weighed * 2 * _LEVELS + 2 * level
    tallies += (weighed * _LEVELS + level) * _DIGITS
    upto = tl.cumsum(tl.load(tallies + tl.arange(0, _DIGITS)), 0)
    whole = tl.max(upto, 0)
    if level == 0:
        needed = (whole.to(tl.float64) * tl.load(how + 3)).to(tl.int64)
        needed = tl.minimum(tl.maximum(needed, 1), whole)
        left = tl.where(weighed != 0, needed, tl.load(how + 2).to(tl.int64))
        found = whole * 0
    else:
        found = tl.load(slots)
        left = tl.load(slots + 1)
    passed = upto < left
    found = found * _DIGITS + tl.sum(passed.to(tl.int64), 0)
    return found, left - tl.max(tl.where(passed, upto, 0), 0)


@triton.jit
def deepest(
    slots: tl.tensor,
    tallies: tl.tensor,
    how: tl.tensor,
    width: tl.tensor,
    WEIGHED: tl.constexpr,
) -> tl.tensor:
    """The greatest depth that min_p lets through, and top_k, and top_p where it was `WEIGHED`."""
    limit = tl.load(how + 1).to(tl.int64)
    if _few(how, width):
        found, _ = _found(slots, tallies, how, _LEVELS - 1, 0)
        limit = tl.minimum(limit, found)
    if WEIGHED:  # noqa: SIM102  (known when it is compiled)
        if tl.load(how + 3) < 1.0:
            limit, _ = _found(slots, tallies, how, _LEVELS - 1, 1)
    return limit


@triton.jit(do_not_specialize=["parts", "level", "weighed"])
def tally(
    x: tl.tensor,
    how: tl.tensor,
    peaks: tl.tensor,
    slots: tl.tensor,
    tallies: tl.tensor,
    width: tl.tensor,
    x_row: tl.tensor,
    parts: tl.tensor,
    level: tl.tensor,
    weighed: tl.tensor,
    FIRST: tl.constexpr,
    PARTS: tl.constexpr,
    PART: tl.constexpr,
) -> None:
    """Count tokens, or weigh those that top_k lets through; level 0 is the `FIRST`."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    how += row * 5
    slots += row * _SLOTS
    tallies += row * _TALLIES
    asked = tl.where(weighed != 0, tl.load(how + 3) < 1.0, _few(how, width))
    if (tl.load(how) == 0.0) | (asked == 0):
        return
    at = part * PART + tl.arange(0, PART)
    depth = depths(x + row * x_row, how, highest(peaks + row * parts, parts, PARTS), at, width)
    inside = at < width
    value = tl.full([PART], 1, tl.int64)
    if weighed != 0:
        inside &= depth <= deepest(slots, tallies, how, width, False)
        value = weights(depth)
    mine = tallies + (weighed * _LEVELS + level) * _DIGITS
    if FIRST:
        octave = depth >> 24
        first = tl.min(tl.where(inside, octave, 63), 0)
        last = tl.max(tl.where(inside, octave, 0), 0)
        # Most tokens share a few octaves: they are added up here first.
        for one in range(first, last + 1):
            together = tl.sum(tl.where(inside & (octave == one), value, 0), 0)
            tl.atomic_add(mine + one, together, sem="relaxed")
    else:
        found, left = _found(slots, tallies, how, level - 1, weighed)
        if part == 0:
            slot = slots + weighed * 2 * _LEVELS + 2 * level
            tl.store(slot, found)
            tl.store(slot + 1, left)
        inside &= (depth >> (32 - 8 * level)) == found
        digit = (depth >> (24 - 8 * level)) & (_DIGITS - 1)
        tl.atomic_add(mine + digit, value, mask=inside, sem="relaxed")
