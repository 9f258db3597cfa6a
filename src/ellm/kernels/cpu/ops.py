"""kernels.ops.Ops by the native library."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from ctypes import byref
from dataclasses import dataclass

import torch
from torch import Tensor

from ellm.core.plan import StepShape
from ellm.core.units import round_up
from ellm.kernels.activation import Activation
from ellm.kernels.cpu import library as native
from ellm.kernels.cpu.attention import NativeAttention
from ellm.kernels.cpu.library import DTYPES, Kind, Library, Op, operation
from ellm.kernels.cpu.tape import Tape
from ellm.kernels.heights import height
from ellm.kernels.ops import AttentionPlan, Changes, Dims, KvPlanes, Segment, Temp
from ellm.kernels.reference import follow
from ellm.kernels.scratch import Scratch

# kWidest of native/attention_room.h.
WIDEST_HEAD = 256
_ACTIVATIONS = {
    Activation.SILU: 0,
    Activation.GELU: 1,
    Activation.GELU_TANH: 2,
    Activation.RELU: 3,
}


@dataclass(frozen=True, slots=True)
class Room(Temp):
    """What each of so many threads of an attention kernel needs, uint8."""

    attention: Tensor
    threads: int


@dataclass(frozen=True, slots=True)
class LogitRoom(Temp):
    """What each of so many threads needs for a row of logits, uint8 [threads, bytes]."""

    threads: Tensor


class NativeOps:
    """On the CPU, for float32 and bfloat16, with the instruction set `level` of the library.

    Tensors are contiguous along their last axis.
    """

    def __init__(self, library: Library, level: str | None = None) -> None:
        self._library = library
        level = level or library.levels[0]
        self.name = f"native {level}"
        self._level = library.levels.index(level)
        # As many as there are now: room for more is not taken, whatever others set later.
        self._threads = library.thread_count()
        self._recorded: list[Op] | None = None

    @staticmethod
    def computes(dtype: torch.dtype, head_dim: int) -> bool:
        """Whether the library has kernels for this: it reads heads in pairs of bfloat16."""
        return dtype in DTYPES and head_dim % 2 == 0 and head_dim <= WIDEST_HEAD

    def padded(self, rows: int) -> int:
        return height(rows)

    def key(self, shape: StepShape, segments: Sequence[Segment]) -> Hashable:
        return shape.longest_query > 1, shape.gathers

    def trace(self, work: Callable[[], None], shape: StepShape) -> Tape:
        self._recorded = []
        try:
            work()
            return Tape(self._library, self._level, self._recorded)
        finally:
            self._recorded = None

    def _emit(self, op: Op) -> None:
        if self._recorded is None:
            self._library.run(self._level, byref(op), 1)
        else:
            self._recorded.append(op)

    def temp(self, scratch: Scratch, dims: Dims, shape: StepShape) -> Room:
        group = dims.heads // max(dims.kv_heads, 1)
        room = self._library.attention_room(
            self._threads, dims.kv_heads, group, dims.head_dim, shape.longest_kv
        )
        return Room(scratch.take((room,), torch.uint8), self._threads)

    def pack(self, weight: Tensor) -> None:
        rows, columns = weight.shape
        self._library.pack(weight.data_ptr(), rows, columns, DTYPES[weight.dtype])

    def follow(self, ids: Tensor, answers: Tensor) -> None:
        follow(ids, answers)

    def select(self, x: Tensor, rows: Tensor, out: Tensor) -> None:
        self._select(Kind.SELECT, x, rows, out)

    def embed(self, weight: Tensor, ids: Tensor, out: Tensor) -> None:
        self._select(Kind.EMBED, weight, ids, out)

    def _select(self, kind: Kind, x: Tensor, rows: Tensor, out: Tensor) -> None:
        op = operation(kind, x)
        op.of.select = native.Select(
            x.data_ptr(),
            out.data_ptr(),
            rows.data_ptr(),
            len(rows),
            x.shape[1],
            x.stride(0),
            out.stride(0),
            x.shape[0],
        )
        self._emit(op)

    def rms_norm(
        self,
        x: Tensor,
        weight: Tensor,
        eps: float,
        out: Tensor,
        temp: Temp,
        added: Tensor | None = None,
    ) -> None:
        self._norm(x, weight, None, eps, out, added)

    def layer_norm(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        out: Tensor,
        temp: Temp,
        added: Tensor | None = None,
    ) -> None:
        self._norm(x, weight, bias, eps, out, added)

    def _norm(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
        out: Tensor,
        added: Tensor | None,
    ) -> None:
        op = operation(Kind.NORM, x)
        heads = x.shape[1] if x.dim() == 3 else 1
        op.of.norm = native.Norm(
            x.data_ptr(),
            _address(added),
            weight.data_ptr(),
            _address(bias),
            out.data_ptr(),
            x.shape[0],
            heads,
            x.shape[-1],
            x.stride(0),
            x.stride(1) if x.dim() == 3 else 0,
            0 if added is None else added.stride(0),
            out.stride(0),
            out.stride(1) if out.dim() == 3 else 0,
            eps,
        )
        self._emit(op)

    def add(self, x: Tensor, residual: Tensor) -> None:
        op = operation(Kind.ADD, x)
        op.of.add = native.Add(x.data_ptr(), residual.data_ptr(), len(x), x.shape[1])
        self._emit(op)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
        op = operation(Kind.LINEAR, x)
        op.of.linear = native.Linear(
            x.data_ptr(),
            weight.data_ptr(),
            _address(bias),
            out.data_ptr(),
            x.shape[0],
            x.shape[1],
            weight.shape[0],
            x.stride(0),
            out.stride(0),
        )
        self._emit(op)

    def angles(
        self,
        positions: Tensor,
        frequencies: Tensor,
        scale: float,
        cos: Tensor,
        sin: Tensor,
        temp: Temp,
    ) -> None:
        op = operation(Kind.ANGLES, cos)
        op.of.angles = native.Angles(
            positions.data_ptr(),
            frequencies.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            len(positions),
            len(frequencies),
            scale,
        )
        self._emit(op)

    def store_kv(
        self,
        planes: Tensor,
        rows: Tensor,
        qkv: Tensor,
        temp: Temp,
        turn: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        kv_heads = planes.shape[2]
        heads = qkv.shape[1] - 2 * kv_heads
        if turn is not None:
            self._rotate(qkv[:, : heads + kv_heads], *turn)
        self._store(planes, rows, qkv[:, heads:])

    def _rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> None:
        op = operation(Kind.ROTARY, x)
        op.of.rotary = native.Rotary(
            x.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            x.shape[0],
            x.shape[1],
            cos.shape[-1],
            x.stride(0),
            x.stride(1),
        )
        self._emit(op)

    def _store(self, planes: Tensor, rows: Tensor, kv: Tensor) -> None:
        op = operation(Kind.STORE, kv)
        width = kv[0].numel()
        op.of.store = native.Store(
            kv.data_ptr(),
            planes.data_ptr(),
            rows.data_ptr(),
            len(rows),
            width,
            kv.stride(0),
            planes.stride(0),
        )
        self._emit(op)

    def plan_attention(
        self, kv: KvPlanes, windows: Sequence[int | None], segments: Sequence[Segment], temp: Temp
    ) -> AttentionPlan:
        assert isinstance(temp, Room)
        return NativeAttention(self._emit, kv, windows, segments, temp.attention, temp.threads)

    def logit_temp(self, scratch: Scratch, rows: int, width: int, top: int) -> LogitRoom:
        # Depths while a token is drawn, the likeliest while tokens are scored.
        stride = round_up(max(4 * width, 8 * min(top, width)), 64)
        return LogitRoom(scratch.take((self._threads, stride), torch.uint8))

    def sample(self, x: Tensor, how: Tensor, changes: Changes, out: Tensor, temp: Temp) -> None:
        assert isinstance(temp, LogitRoom)
        op = operation(Kind.SAMPLE, x)
        op.of.sample = native.Sample(
            x.data_ptr(),
            how.data_ptr(),
            changes.starts.data_ptr(),
            changes.ids.data_ptr(),
            changes.values.data_ptr(),
            out.data_ptr(),
            temp.threads.data_ptr(),
            *temp.threads.shape,
            *x.shape,
            x.stride(0),
        )
        self._emit(op)

    def score(self, x: Tensor, targets: Tensor, values: Tensor, ids: Tensor, temp: Temp) -> None:
        assert isinstance(temp, LogitRoom)
        op = operation(Kind.SCORE, x)
        op.of.score = native.Score(
            x.data_ptr(),
            targets.data_ptr(),
            values.data_ptr(),
            ids.data_ptr(),
            temp.threads.data_ptr(),
            *temp.threads.shape,
            *x.shape,
            x.stride(0),
            values.shape[1] - 1,
        )
        self._emit(op)

    def activate(self, activation: Activation, x: Tensor, gated: bool, out: Tensor) -> None:
        op = operation(Kind.ACTIVATE, x)
        op.of.activate = native.Activate(
            x.data_ptr(),
            out.data_ptr(),
            x.shape[0],
            out.shape[1],
            x.stride(0),
            out.stride(0),
            _ACTIVATIONS[activation],
            gated,
        )
        self._emit(op)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
