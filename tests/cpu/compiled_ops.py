"""Every launch site of the CUDA backend, for the shapes of two models."""

from __future__ import annotations

from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor

from ellm.core.layers import KvTable
from ellm.core.plan import StepShape
from ellm.kernels.activation import Activation
from ellm.kernels.cuda import products, prompts
from ellm.kernels.cuda.ops import CudaOps
from ellm.kernels.logits import DEEPEST
from ellm.kernels.ops import Changes, Dims, KvPlanes, Segment
from ellm.runtime.workspace import Workspace

ROWS, PAGE = 3, 16
ROOM = 64 << 20


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a model: what decides how its kernels are compiled."""

    name: str
    dtype: torch.dtype
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    window: int | None

    @property
    def dims(self) -> Dims:
        return Dims(
            self.hidden,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.head_dim,
            (self.window,),
            self.dtype,
        )


SHAPES = (
    # https://huggingface.co/meta-llama/Meta-Llama-3-8B/blob/main/config.json
    Shape("llama-3-8b", torch.bfloat16, 4096, 32, 8, 128, 14336, 128256, None),
    Shape("odd", torch.float16, 14 * 80, 14, 2, 80, 3000, 5003, 100),
)


def tour(shape: Shape) -> None:
    """Call every op that launches a kernel."""
    raw = torch.zeros(ROOM + 64, dtype=torch.uint8)
    room = Workspace(-(-raw.data_ptr() // 64) * 64, ROOM)
    ops = CudaOps()
    norms(ops, shape, room)
    for page in (None, PAGE):
        layer(ops, shape, room, page)
    for activation in Activation:
        x = empty(shape, ROWS, 2 * shape.intermediate)
        ops.activate(activation, x, True, empty(shape, ROWS, shape.intermediate))
    multiply(shape)
    ops.follow(torch.zeros(ROWS, dtype=torch.int64), torch.zeros(ROWS, dtype=torch.int64))
    samples(ops, shape, room)


def empty(shape: Shape, *size: int) -> Tensor:
    return torch.empty(size, dtype=shape.dtype)


def norms(ops: CudaOps, shape: Shape, room: Workspace) -> None:
    temp = ops.temp(room, shape.dims, StepShape(ROWS, 0, 1, ROWS))
    x, added, out = (empty(shape, ROWS, shape.hidden) for _ in range(3))
    weight = empty(shape, shape.hidden)
    for more in (None, added):
        ops.rms_norm(x, weight, 1e-5, out, temp, more)
        ops.layer_norm(x, weight, weight, 1e-5, out, temp, more)
    heads = empty(shape, ROWS, shape.heads, shape.head_dim)
    ops.rms_norm(heads, weight[: shape.head_dim], 1e-5, heads, temp)


def multiply(shape: Shape) -> None:
    """Each way to multiply few rows by a matrix."""
    weight, bias = empty(shape, 64, shape.hidden), empty(shape, 64)
    for rows, ways in ((1, products.SINGLE), (ROWS, products.SOME)):
        x, out = empty(shape, rows, shape.hidden), empty(shape, rows, 64)
        for way in ways:
            if way is not products.whole:
                way(x, weight, None, out)
                way(x, weight, bias, out)


def layer(ops: CudaOps, shape: Shape, room: Workspace, page: int | None) -> None:
    """Angles, rotation, the store, and attention of two that decode beside a prompt."""
    heads, kv_heads, width = shape.heads, shape.kv_heads, shape.head_dim
    half, tokens = width // 2, 6
    step = StepShape(tokens, 0, 4, 40, page is not None)
    temp = ops.temp(room, shape.dims, step)
    cos, sin = (empty(shape, tokens, 1, 1, half) for _ in range(2))
    ops.angles(torch.zeros(tokens, dtype=torch.int64), torch.ones(half), 1.0, cos, sin, temp)
    qkv = empty(shape, tokens, heads + 2 * kv_heads, width)
    planes = empty(shape, 256, 2, 2, kv_heads, width)[:, 1]
    rows = torch.zeros(tokens, dtype=torch.int64)
    for turn in (None, (cos, sin), (cos[..., : half // 2], sin[..., : half // 2])):
        ops.store_kv(planes, rows, qkv, temp, turn)
    table = KvTable((0,), 256) if page is None else KvTable((0, 32, 64), page)
    segments = [Segment(0, 1, 30, table), Segment(1, 1, 39, table), Segment(2, 4, 20, table)]
    plan = ops.plan_attention(KvPlanes((planes,)), [shape.window], segments, temp)
    out = empty(shape, tokens, heads, width)
    with patch.object(prompts, "_flash", lambda queries, *_, **__: (queries,)):
        plan.run(0, qkv[:, :heads], out)


def samples(ops: CudaOps, shape: Shape, room: Workspace) -> None:
    """Greedy rows and such as are drawn, of plain and of changed logits."""
    x, out = empty(shape, ROWS, shape.vocab), torch.zeros(ROWS, dtype=torch.int64)
    temp = ops.logit_temp(room, ROWS, shape.vocab, 4)
    nothing = torch.empty(0, dtype=torch.int64)
    none = Changes(torch.zeros(ROWS + 1, dtype=torch.int64), nothing, torch.empty(0))
    some = Changes(torch.tensor([0, 1, 1, 1]), torch.tensor([0]), torch.ones(1))
    for warm in (0.0, 0.7):
        how = torch.tensor([[warm, DEEPEST, 40, 0.9, 0.5]] * ROWS, dtype=torch.float64)
        ops.sample(x, how, none, out, temp)
        ops.sample(x, how, some, out, temp)
