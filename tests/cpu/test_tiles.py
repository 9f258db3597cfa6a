"""Products in tiles: sums in the order of AMX's instructions, on them or on their model."""

from __future__ import annotations

import pytest
import torch
from backends import NATIVE
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

TILED = [name for name in NATIVE if name.startswith("amx")]
pytestmark = pytest.mark.skipif(not TILED, reason="no AMX here; `make test` has a run over a model")

WORDS = 16


def in_tiles(x: Tensor, weight: Tensor) -> Tensor:
    """32 inputs at a time: the even ones and the odd ones to sums of their own, then together.

    A product of two bfloat16 is exact in float32, so that each step is rounded once.
    """
    total = torch.zeros(len(x), len(weight))
    for first in range(0, x.shape[1], 2 * WORDS):
        sums = [torch.zeros_like(total) for _ in range(2)]
        for k in range(first, min(first + 2 * WORDS, x.shape[1])):
            sums[k % 2] += x[:, k, None].float() * weight[:, k].float()
        total += sums[0] + sums[1]
    return total


@given(
    st.sampled_from([*range(1, 50), 63, 64, 65, 96, 97, 130]),
    st.sampled_from([2, 30, 32, 34, 64, 200, 2048, 2090]),
    st.sampled_from([16, 32, 48, 64, 80, 128, 176]),
    st.integers(0, 2**20),
)
def test_bits_are_those_of_the_textbook(rows: int, width: int, outputs: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, weight = (
        torch.randn(count, width, generator=generator).bfloat16() for count in (rows, outputs)
    )
    wanted = in_tiles(x, weight).bfloat16()
    for name in TILED:
        ops, out, packed = NATIVE[name], torch.empty_like(wanted), weight.clone()
        ops.pack(packed)
        ops.linear(x, packed, None, out)
        assert torch.equal(out, wanted)
        ops.linear(x[-1:], packed, None, out[:1])
        assert torch.equal(out[0], wanted[-1]), "a row alone differs"
