"""Each op of every backend against the textbook in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from backends import BACKENDS, computes
from device_half import aligned
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from ellm.core.plan import StepShape
from ellm.kernels.activation import Activation
from ellm.kernels.ops import Dims, Temp
from ellm.runtime.workspace import Workspace

pytestmark = pytest.mark.parametrize("name", BACKENDS)
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}

dtypes = st.sampled_from(list(TOLERANCE))
sizes = st.integers(1, 9)
seeds = st.integers(0, 2**20)


def random(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@contextmanager
def temp(name: str, tokens: int, heads: int, width: int, dtype: torch.dtype) -> Iterator[Temp]:
    memory = aligned(1 << 20)
    dims = Dims(heads * width, heads, 0, width, width, (None,), dtype)
    yield BACKENDS[name].temp(Workspace(memory.data_ptr(), 1 << 20), dims, StepShape(tokens=tokens))
    del memory


def close(found: Tensor, wanted: Tensor) -> None:
    """Relative to the largest expected value: bf16 errors are of that size everywhere."""
    scale = max(1.0, float(wanted.abs().max()))
    limit = TOLERANCE[found.dtype] * scale
    torch.testing.assert_close(found.double(), wanted.double(), atol=limit, rtol=0)


@given(sizes, st.integers(1, 40), dtypes, seeds)
def test_rms_norm(name: str, tokens: int, width: int, dtype: torch.dtype, seed: int) -> None:
    x, weight = random(seed, tokens, width, dtype=dtype), random(seed + 1, width, dtype=dtype)
    assume(computes(name, dtype))
    ops, out = BACKENDS[name], torch.empty_like(x)
    with temp(name, tokens, 1, width, dtype) as room:
        ops.rms_norm(x, weight, 1e-5, out, room)
    wide = x.double()
    wanted = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    close(out, wanted)
    with temp(name, tokens, 1, width, dtype) as room:
        ops.rms_norm(x, weight, 1e-5, x, room)
    assert torch.equal(x, out), "in place differs"


@given(sizes, st.integers(2, 40), dtypes, seeds)
def test_layer_norm(name: str, tokens: int, width: int, dtype: torch.dtype, seed: int) -> None:
    x = random(seed, tokens, width, dtype=dtype)
    weight, bias = random(seed + 1, width, dtype=dtype), random(seed + 2, width, dtype=dtype)
    assume(computes(name, dtype))
    out = torch.empty_like(x)
    with temp(name, tokens, 1, width, dtype) as room:
        BACKENDS[name].layer_norm(x, weight, bias, 1e-5, out, room)
    wanted = torch.nn.functional.layer_norm(
        x.double(), (width,), weight.double(), bias.double(), 1e-5
    )
    close(out, wanted)


@given(sizes, st.integers(2, 70), dtypes, st.booleans(), st.booleans(), seeds)
def test_a_norm_adds_as_add_would(
    name: str, tokens: int, width: int, dtype: torch.dtype, biased: bool, apart: bool, seed: int
) -> None:
    assume(computes(name, dtype))
    ops = BACKENDS[name]
    x, added, out = (random(seed + i, tokens, width, dtype=dtype) for i in range(3))
    weight, bias = (random(seed + i, width, dtype=dtype) for i in (3, 4))

    def norm(x: Tensor, out: Tensor, added: Tensor | None) -> None:
        with temp(name, tokens, 1, width, dtype) as room:
            if biased:
                ops.layer_norm(x, weight, bias, 1e-5, out, room, added)
            else:
                ops.rms_norm(x, weight, 1e-5, out, room, added)

    summed, wanted = x.clone(), torch.empty_like(x)
    ops.add(added, summed)
    norm(summed, wanted, None)
    to = out if apart else added
    norm(x, to, added)
    assert torch.equal(x, summed)
    assert torch.equal(to, wanted)


@given(st.integers(1, 130), st.integers(1, 150), st.integers(1, 150), dtypes, st.booleans(), seeds)
def test_linear(
    name: str,
    tokens: int,
    width: int,
    outputs: int,
    dtype: torch.dtype,
    biased: bool,
    seed: int,
) -> None:
    x, weight = random(seed, tokens, width, dtype=dtype), random(seed, outputs, width, dtype=dtype)
    bias = random(seed + 1, outputs, dtype=dtype) if biased else None
    assume(computes(name, dtype))
    ops, out = BACKENDS[name], torch.empty(tokens, outputs, dtype=dtype)
    wanted = x.double() @ weight.double().t()
    ops.pack(weight)
    ops.linear(x, weight, bias, out)
    close(out, wanted if bias is None else wanted + bias.double())


@given(st.integers(1, 90), st.integers(1, 40), dtypes, seeds)
def test_embed_finds_the_rows_of_a_packed_matrix(
    name: str, rows: int, width: int, dtype: torch.dtype, seed: int
) -> None:
    assume(computes(name, dtype))
    ops, weight = BACKENDS[name], random(seed, rows, width, dtype=dtype)
    ids = torch.randint(0, rows, (7,), generator=torch.Generator().manual_seed(seed))
    wanted, out = weight[ids], torch.empty(7, width, dtype=dtype)
    ops.select(weight, ids, out)
    assert torch.equal(out, wanted)
    ops.pack(weight)
    ops.embed(weight, ids, out.zero_())
    assert torch.equal(out, wanted)


@given(sizes, sizes, dtypes, seeds)
def test_add(name: str, tokens: int, width: int, dtype: torch.dtype, seed: int) -> None:
    assume(computes(name, dtype))
    x, y = random(seed, tokens, width, dtype=dtype), random(seed + 1, tokens, width, dtype=dtype)
    wanted = x.double() + y.double()
    BACKENDS[name].add(x, y)
    close(y, wanted)


@given(sizes, sizes, st.integers(1, 6), st.integers(0, 6), dtypes, seeds)
def test_rotary_is_a_complex_rotation(
    name: str, tokens: int, heads: int, half: int, rest: int, dtype: torch.dtype, seed: int
) -> None:
    """Of queries where they are, and of keys on their way to their rows; values stay."""
    assume(computes(name, dtype))
    ops, width = BACKENDS[name], 2 * half + rest
    x = random(seed, tokens, heads + 2, width, dtype=dtype)
    values, planes = x[:, -1].clone(), torch.zeros(tokens + 1, 2, 1, width, dtype=dtype)
    positions = torch.randint(0, 100, (tokens,), generator=torch.Generator().manual_seed(seed))
    frequencies = torch.tensor([10000 ** (-i / half) for i in range(half)])
    cos, sin = (torch.empty(tokens, 1, 1, half, dtype=dtype) for _ in range(2))
    dims = Dims(width, heads, 1, width, 2 * half, (None,), dtype)
    memory = aligned(1 << 20)
    room = ops.temp(Workspace(memory.data_ptr(), 1 << 20), dims, StepShape(tokens=tokens))
    ops.angles(positions, frequencies, 1.25, cos, sin, room)
    angle = positions.double()[:, None] * frequencies.double()
    turn = torch.polar(torch.full_like(angle, 1.25), angle)[:, None]
    pairs = torch.complex(x[..., :half].double(), x[..., half : 2 * half].double()) * turn
    wanted = torch.cat([pairs.real, pairs.imag, x[..., 2 * half :].double()], -1)
    ops.store_kv(planes, torch.arange(tokens) + 1, x, room, (cos, sin))
    close(x[:, :heads], wanted[:, :heads])
    close(planes[1:, 0], wanted[:, heads : heads + 1])
    assert torch.equal(planes[1:, 1, 0], values)
    assert not planes[0].any()


@pytest.mark.parametrize("activation", Activation)
@given(tokens=sizes, width=st.integers(1, 40), gated=st.booleans(), seed=seeds)
def test_activate(
    name: str, activation: Activation, tokens: int, width: int, gated: bool, seed: int
) -> None:
    x = random(seed, tokens, width * (2 if gated else 1))
    out = torch.empty(tokens, width)
    gate = x[:, :width].double()
    cube = 0.044715 * gate**3
    acted = {
        Activation.SILU: gate / (1 + (-gate).exp()),
        Activation.RELU: gate.clamp(min=0),
        Activation.GELU: gate * (1 + torch.erf(gate / math.sqrt(2))) / 2,
        Activation.GELU_TANH: gate * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + cube))) / 2,
    }[activation]
    wanted = acted * x[:, width:].double() if gated else acted
    BACKENDS[name].activate(activation, x, gated, out)
    close(out, wanted)


@given(st.lists(st.integers(0, 19), min_size=1, max_size=8, unique=True), seeds)
def test_store_kv_touches_the_named_rows_only(name: str, rows: list[int], seed: int) -> None:
    base = torch.zeros(20, 3, 2, 2, 4)
    ops, qkv = BACKENDS[name], random(seed, len(rows) + 1, 7, 4)
    memory = aligned(1 << 20)
    dims = Dims(12, 3, 2, 4, 0, (None,), torch.float32)
    room = ops.temp(Workspace(memory.data_ptr(), 1 << 20), dims, StepShape(len(qkv)))
    kv = qkv[:-1, 3:].reshape(-1, 2, 2, 4)
    ops.store_kv(base[:, 1], torch.tensor(rows), qkv, room)
    wanted = torch.zeros_like(base)
    for row, value in zip(rows, kv, strict=True):
        wanted[row, 1] = value
    assert torch.equal(base, wanted)
