"""Every op in plain PyTorch: the truth that faster backends are tested against.

Runs on any device.  Numerics follow transformers: norms and angles in float32, everything else in
the model's dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ellm.core.plan import StepShape
from ellm.kernels import logits
from ellm.kernels.activation import Activation
from ellm.kernels.attention import SdpaPlan, mask_shape
from ellm.kernels.heights import height
from ellm.kernels.ops import AttentionPlan, Changes, Dims, KvPlanes, Program, Segment, Temp
from ellm.kernels.scratch import Scratch

_aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Room(Temp):
    """What PyTorch's kernels need beside their outputs."""

    wide: Tensor
    narrow: Tensor
    rotated: Tensor
    masks: tuple[Tensor, ...]
    gathered: Tensor


class ReferenceOps:
    """kernels.ops.Ops on PyTorch's own kernels."""

    name = "PyTorch"

    def padded(self, rows: int) -> int:
        # oneDNN compiles a bfloat16 product for every number of rows, and keeps what it made:
        # hundreds of megabytes in an hour of mixed lengths.
        return height(rows)

    def key(self, shape: StepShape, segments: Sequence[Segment]) -> Hashable | None:
        return None

    def trace(self, work: Callable[[], None], shape: StepShape) -> Program | None:
        return None

    def temp(self, scratch: Scratch, dims: Dims, shape: StepShape) -> Temp:
        tokens = shape.tokens
        rotated_heads = dims.heads + dims.kv_heads
        widest = max(dims.hidden, rotated_heads * dims.head_dim)
        kv_shape = (shape.longest_kv if shape.gathers else 0, 2, dims.kv_heads, dims.head_dim)
        return Room(
            wide=scratch.take((tokens * widest,), torch.float32),
            narrow=scratch.take((tokens * rotated_heads,), torch.float32),
            rotated=scratch.take((tokens, rotated_heads, 2, dims.rotary_dim // 2), dims.dtype),
            masks=tuple(
                scratch.take(mask_shape(window, shape), dims.dtype) for window in dims.windows
            ),
            gathered=scratch.take(kv_shape, dims.dtype),
        )

    def pack(self, weight: Tensor) -> None:
        """PyTorch reads matrices as they are."""

    def embed(self, weight: Tensor, ids: Tensor, out: Tensor) -> None:
        self.select(weight, ids, out[: len(ids)])
        out[len(ids) :].zero_()

    def follow(self, ids: Tensor, answers: Tensor) -> None:
        follow(ids, answers)

    def select(self, x: Tensor, rows: Tensor, out: Tensor) -> None:
        torch.index_select(x, 0, rows, out=out)

    def rms_norm(
        self,
        x: Tensor,
        weight: Tensor,
        eps: float,
        out: Tensor,
        temp: Temp,
        added: Tensor | None = None,
    ) -> None:
        if added is not None:
            self.add(added, x)
        wide, narrow = _norm_room(x, temp)
        wide.copy_(x)
        _divide_by_rms(wide, narrow, eps)
        out.copy_(wide).mul_(weight)

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
        if added is not None:
            self.add(added, x)
        wide, narrow = _norm_room(x, temp)
        wide.copy_(x)
        wide.sub_(torch.mean(wide, -1, keepdim=True, out=narrow))
        _divide_by_rms(wide, narrow, eps)
        out.copy_(wide.mul_(weight).add_(bias))

    def add(self, x: Tensor, residual: Tensor) -> None:
        residual.add_(x)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
        if bias is None:
            torch.mm(x, weight.t(), out=out)
        else:
            torch.addmm(bias, x, weight.t(), out=out)

    def angles(
        self,
        positions: Tensor,
        frequencies: Tensor,
        scale: float,
        cos: Tensor,
        sin: Tensor,
        temp: Temp,
    ) -> None:
        assert isinstance(temp, Room)
        real = temp.narrow[: len(cos)]
        real[: len(positions)].copy_(positions)
        real[len(positions) :].zero_()
        turned = torch.outer(real, frequencies).view(cos.shape)
        cos.copy_(turned.cos().mul_(scale))
        sin.copy_(turned.sin_().mul_(scale))

    def store_kv(
        self,
        planes: Tensor,
        rows: Tensor,
        qkv: Tensor,
        temp: Temp,
        turn: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        heads = qkv.shape[1] - 2 * planes.shape[2]
        if turn is not None:
            _rotate(qkv[:, : heads + planes.shape[2]], *turn, temp)
        planes.index_copy_(0, rows, qkv[: len(rows), heads:].view(-1, *planes.shape[1:]))

    def plan_attention(
        self, kv: KvPlanes, windows: Sequence[int | None], segments: Sequence[Segment], temp: Temp
    ) -> AttentionPlan:
        assert isinstance(temp, Room)
        return SdpaPlan(kv, windows, segments, temp.masks, temp.gathered)

    def logit_temp(self, scratch: Scratch, rows: int, width: int, top: int) -> Temp:
        return logits.Room.take(scratch, rows, width)

    def sample(self, x: Tensor, how: Tensor, changes: Changes, out: Tensor, temp: Temp) -> None:
        assert isinstance(temp, logits.Room)
        logits.sample(x, how, changes, out, temp)

    def score(self, x: Tensor, targets: Tensor, values: Tensor, ids: Tensor, temp: Temp) -> None:
        assert isinstance(temp, logits.Room)
        logits.score(x, targets, values, ids, temp)

    def activate(self, activation: Activation, x: Tensor, gated: bool, out: Tensor) -> None:
        gate, up = x.chunk(2, dim=-1) if gated else (x, None)
        match activation:
            case Activation.SILU:
                _aten.silu.out(gate, out=out)
            case Activation.RELU:
                torch.clamp(gate, min=0, out=out)
            case Activation.GELU:
                _aten.gelu.out(gate, approximate="none", out=out)
            case Activation.GELU_TANH:
                _aten.gelu.out(gate, approximate="tanh", out=out)
        if up is not None:
            out.mul_(up)


def follow(ids: Tensor, answers: Tensor) -> None:
    """kernels.ops.Ops.follow."""
    known = answers[ids.bitwise_not().clamp_(min=0)]  # -1 - id
    ids.copy_(torch.where(ids < 0, known, ids))


def _norm_room(x: Tensor, temp: Temp) -> tuple[Tensor, Tensor]:
    """Float32 room shaped like `x`, and like `x` reduced over its last axis."""
    assert isinstance(temp, Room)
    rows = x.numel() // x.shape[-1]
    return temp.wide[: x.numel()].view(x.shape), temp.narrow[:rows].view(*x.shape[:-1], 1)


def _divide_by_rms(wide: Tensor, narrow: Tensor, eps: float) -> None:
    torch.linalg.vector_norm(wide, dim=-1, keepdim=True, out=narrow)
    narrow.square_().div_(wide.shape[-1]).add_(eps).rsqrt_()
    wide.mul_(narrow)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, temp: Temp) -> None:
    assert isinstance(temp, Room)
    half = cos.shape[-1]
    halves = x[..., : 2 * half].view(*x.shape[:2], 2, half)
    rotated = temp.rotated[:, : x.shape[1]]
    torch.mul(halves, cos, out=rotated)
    rotated[:, :, :1].addcmul_(halves[:, :, 1:], sin, value=-1)
    rotated[:, :, 1:].addcmul_(halves[:, :, :1], sin)
    halves.copy_(rotated)
