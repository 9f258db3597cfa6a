"""Single kernels at the shape of Llama-3-8B, and what the device can do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timing import milliseconds
from torch import Tensor

from ellm.core.layers import KvTable
from ellm.core.plan import StepShape
from ellm.kernels.activation import Activation
from ellm.kernels.cuda.ops import CudaOps
from ellm.kernels.logits import DEEPEST
from ellm.kernels.ops import Dims, KvPlanes, Segment
from ellm.runtime.workspace import Workspace

HIDDEN, HEADS, KV_HEADS, WIDTH, MLP, VOCAB = 4096, 32, 8, 128, 14336, 128_256
DIMS = Dims(HIDDEN, HEADS, KV_HEADS, WIDTH, WIDTH, (None,), torch.bfloat16)
ROOM = 1 << 30
Found = dict[str, Any]


def device() -> tuple[float, float]:
    """Bytes a second of reading a large matrix, and operations a second of multiplying one."""
    wide = torch.randn(VOCAB, HIDDEN, dtype=torch.bfloat16, device="cuda")
    one, many = numbers(1, HIDDEN), numbers(8192, HIDDEN)
    few = wide[:MLP].contiguous()
    read = milliseconds(lambda: torch.mm(one, wide.t()))
    multiplied = milliseconds(lambda: torch.mm(many, few.t()))
    return wide.nbytes / read * 1e3, 2 * len(many) * HIDDEN * MLP / multiplied * 1e3


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.bfloat16, device="cuda")


def small(rows: int) -> Iterator[Found]:
    """What stands between the products of a layer."""
    ops = CudaOps()
    x, more, weight = numbers(rows, HIDDEN), numbers(rows, HIDDEN), numbers(HIDDEN)
    temp = _temp(StepShape(rows, 0, 1, 1))
    cos, sin = numbers(rows, 1, 1, WIDTH // 2), numbers(rows, 1, 1, WIDTH // 2)
    qkv, up, out = numbers(rows, 48, WIDTH), numbers(rows, 2 * MLP), numbers(rows, MLP)
    planes, at = numbers(rows, 2, KV_HEADS, WIDTH), torch.arange(rows, device="cuda")
    logits, ids = numbers(rows, VOCAB), torch.empty(rows, dtype=torch.int64, device="cuda")
    how = torch.zeros(rows, 5, dtype=torch.float64)
    # Pinned, that a graph may copy it.
    warm = torch.tensor([[0.8, DEEPEST, 0, 0.95, 0.5]] * rows, dtype=torch.float64).pin_memory()
    plain: Any = type("Plain", (), {"ids": ()})
    choice = ops.logit_temp(Workspace(_memory().data_ptr(), ROOM, "cuda"), rows, VOCAB, 0)
    works = {
        "norm": lambda: ops.rms_norm(x, weight, 1e-5, more, temp, more),
        "rotary and store": lambda: ops.store_kv(planes, at, qkv, temp, (cos, sin)),
        "activate": lambda: ops.activate(Activation.SILU, up, True, out),
        "likeliest": lambda: ops.sample(logits, how, plain, ids, choice),
        "drawn": lambda: ops.sample(logits, warm, plain, ids, choice),
    }
    for name, work in works.items():
        yield {"kernel": name, "rows": rows, "us": round(1e3 * milliseconds(work), 2)}


def decoding(sequences: int, length: int, page: int | None, layers: int) -> Found:
    """Attention of sequences that decode; rows of the arena hold so many layers side by side."""
    ops, span = CudaOps(), page or length
    pages = -(-length // span)
    arena = numbers(sequences * pages * span, layers, 2, KV_HEADS, WIDTH)
    order = torch.randperm(sequences * pages).mul_(span).tolist()
    segments = [
        Segment(i, 1, length - 1, KvTable(tuple(order[i * pages : (i + 1) * pages]), span))
        for i in range(sequences)
    ]
    shape = StepShape(sequences, 0, 1, length, pages > 1)
    kv = KvPlanes((arena[:, layers // 2],))
    plan = ops.plan_attention(kv, [None], segments, _temp(shape))
    queries, out = numbers(sequences, HEADS, WIDTH), numbers(sequences, HEADS, WIDTH)
    ms = milliseconds(lambda: plan.run(0, queries, out))
    read = sequences * length * 2 * KV_HEADS * WIDTH * 2
    return {
        "kernel": "decoding",
        "rows": sequences,
        "length": length,
        "page": page,
        "layers": layers,
        "us": round(1e3 * ms, 1),
        "gb_s": round(read / ms / 1e6),
    }


def prompt(tokens: int, before: int, page: int | None) -> Found:
    ops, length = CudaOps(), before + tokens
    span = page or length
    pages = -(-length // span)
    arena = numbers(pages * span, 4, 2, KV_HEADS, WIDTH)
    table = KvTable(tuple(torch.randperm(pages).mul_(span).tolist()), span)
    shape = StepShape(tokens, 0, tokens, length, pages > 1)
    kv = KvPlanes((arena[:, 1],))
    plan = ops.plan_attention(kv, [None], [Segment(0, tokens, before, table)], _temp(shape))
    queries, out = numbers(tokens, HEADS, WIDTH), numbers(tokens, HEADS, WIDTH)
    ms = milliseconds(lambda: plan.run(0, queries, out))
    pairs = tokens * before + tokens * (tokens + 1) / 2
    return {
        "kernel": "prompt",
        "rows": tokens,
        "length": length,
        "page": page,
        "us": round(1e3 * ms, 1),
        "tflops": round(4 * pairs * HEADS * WIDTH / ms / 1e9, 1),
    }


_room: list[Tensor] = []


def _memory() -> Tensor:
    if not _room:
        _room.append(torch.empty(ROOM, dtype=torch.uint8, device="cuda"))
    return _room[0]


def _temp(shape: StepShape) -> Any:
    return CudaOps().temp(Workspace(_memory().data_ptr(), ROOM, "cuda"), DIMS, shape)


def all_of_them() -> Iterator[Found]:
    for rows in (1, 64, 2048):
        yield from small(rows)
    for sequences, length in ((1, 1024), (1, 16384), (16, 1024), (64, 1024), (256, 1024)):
        yield decoding(sequences, length, None, 1)
    for page, layers in ((None, 32), (16, 1), (16, 32)):
        yield decoding(16, 1024, page, layers)
    yield decoding(64, 1024, 16, 8)
    for tokens, before in ((2048, 0), (8192, 0), (2048, 6144)):
        yield prompt(tokens, before, None)
    yield prompt(2048, 6144, 16)
