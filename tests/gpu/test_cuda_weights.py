"""Random weights are the same numbers on a GPU and on the CPU, to the bit."""

from __future__ import annotations

import pytest
import torch

from ellm.runtime import random_weights
from ellm.runtime.random_weights import _Noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [1, 1000, random_weights._GPU_BLOCK + 12_345])
def test_a_gpu_makes_the_numbers_that_a_cpu_makes(dtype: torch.dtype, count: int) -> None:
    here = torch.empty(count, dtype=dtype)
    there = torch.empty(count, dtype=dtype, device="cuda")
    _Noise("cpu").write(here, "0 layers.0.up.weight", 0.0156)
    _Noise("cuda").write(there, "0 layers.0.up.weight", 0.0156)
    assert torch.equal(here, there.cpu())
