"""Logits of a row as whole numbers, a block at a time: the rules of kernels/logits.py.

`how` is a row's five numbers, as kernels.ops.Ops.sample has them, on the device.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ellm.kernels.logits import DEEPEST, LARGEST, OCTAVE

LIMIT = tl.constexpr(LARGEST)
_SCALE = tl.constexpr(1.44269504 * OCTAVE)
_DEEPEST = tl.constexpr(float(DEEPEST))


@triton.jit
def scaled(
    x: tl.tensor,
    how: tl.tensor,
    at: tl.tensor,
    width: tl.tensor,
    GREEDY: tl.constexpr,
) -> tl.tensor:
    """Logits over the temperature, repaired; minus infinity beyond the row."""
    value = tl.load(x + at, mask=at < width, other=float("-inf")).to(tl.float32)
    if not GREEDY:
        temperature = tl.load(how)
        value = tl.div_rn(value, tl.where(temperature == 0.0, 1.0, temperature).to(tl.float32))
    value = tl.where(value != value, float("-inf"), value)
    return tl.where(value > LIMIT, LIMIT, value)


@triton.jit
def highest(peaks: tl.tensor, parts: tl.tensor, PARTS: tl.constexpr) -> tl.tensor:
    """The row's largest logit over the temperature, of those of its parts."""
    part = tl.arange(0, PARTS)
    return tl.max(tl.load(peaks + part, mask=part < parts, other=float("-inf")), 0)


@triton.jit
def depths(
    x: tl.tensor, how: tl.tensor, peak: tl.tensor, at: tl.tensor, width: tl.tensor
) -> tl.tensor:
    """How far below the row's largest, int32; beyond the row as far as can be."""
    below = tl.maximum(peak, -LIMIT) - scaled(x, how, at, width, False)
    return tl.minimum(below * _SCALE, _DEEPEST).to(tl.int32)


@triton.jit
def weights(depth: tl.tensor) -> tl.tensor:
    """The weights of tokens this deep, int64: kernels/logits.py has the polynomial."""
    # The upper half of a product with 2**8 times the part: what it is, shifted by 24.
    part = (depth.to(tl.uint32) & 0xFFFFFF) << 8
    weight = 19791210 - tl.umulhi(tl.full(depth.shape, 2036727, tl.uint32), part)
    weight = 118771735 - tl.umulhi(weight, part)
    weight = 515791228 - tl.umulhi(weight, part)
    weight = 1488515800 - tl.umulhi(weight, part)
    weight = 2147483648 - tl.umulhi(weight, part)
    return (weight.to(tl.int64) << 9) >> (depth >> 24).to(tl.int64)
