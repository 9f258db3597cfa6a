"""kernels.ops.Ops on NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from ellm.core.plan import StepShape
from ellm.kernels.activation import Activation
from ellm.kernels.cuda import activate, draw, norm, rotary
from ellm.kernels.cuda.attention import Room, TableAttention
from ellm.kernels.cuda.decoding import Parts
from ellm.kernels.cuda.follow import follow
from ellm.kernels.cuda.graph import Graph, Recorder
from ellm.kernels.cuda.products import Products
from ellm.kernels.cuda.rows import store
from ellm.kernels.cuda.table import Form, SequenceTable
from ellm.kernels.ops import AttentionPlan, Changes, Dims, KvPlanes, Segment, Temp
from ellm.kernels.reference import ReferenceOps
from ellm.kernels.scratch import Scratch
from ellm.kernels.shortage import is_shortage

# What PyTorch's FlashAttention kernels take.
_HEAD_STEP, _WIDEST_HEAD = 8, 256
# Of a step that is captured although it has prompts; longer ones keep a GPU busy by themselves.
_MOST_TOKENS = 1024


class CudaOps(ReferenceOps):
    """Kernels in Triton, beside the matrix products and lookups of PyTorch.

    Steps in which all decode are captured as CUDA graphs, and small ones with prompts.
    """

    name = "Triton"

    def __init__(self) -> None:
        self._made: Recorder | None = None
        self._products = Products()
        # Those that a capture under way reads.
        self._tables: list[SequenceTable] | None = None

    @property
    def _recorder(self) -> Recorder:
        if self._made is None:
            self._made = Recorder()
        return self._made

    @staticmethod
    def computes(dtype: torch.dtype, head_dim: int) -> bool:
        """Whether there are kernels for this."""
        narrow = head_dim % _HEAD_STEP == 0 and head_dim <= _WIDEST_HEAD
        return dtype in (torch.bfloat16, torch.float16) and narrow

    def key(self, shape: StepShape, segments: Sequence[Segment]) -> Hashable | None:
        """Steps in which all decode; of others the attention, if they are short and in no pages.

        Logits come after steps of any height, in any number: too many programs for few launches.
        """
        if shape.longest_query <= 1:
            return shape.gathers
        if not segments or shape.gathers or shape.tokens > _MOST_TOKENS:
            return None
        return Form.of(segments, self.padded(shape.tokens), shape.gathers)

    def trace(self, work: Callable[[], None], shape: StepShape) -> Graph | None:
        """None too where the device has no memory for a graph: the step can still be launched."""
        try:
            self._recorder.warm(work)
            self._tables = []
            return Graph(self._recorder.capture(work), self._tables)
        except RuntimeError as error:
            if not is_shortage(error):
                raise
            return None
        finally:
            self._tables = None

    def temp(self, scratch: Scratch, dims: Dims, shape: StepShape) -> Room:
        gathers = shape.gathers and shape.longest_query > 1
        kv_shape = (shape.longest_kv if gathers else 0, 2, dims.kv_heads, dims.head_dim)
        return Room(
            table=SequenceTable.take(scratch, shape.tokens),
            parts=Parts.take(scratch, dims, shape.tokens),
            gathered=scratch.take(kv_shape, dims.dtype),
            paged=shape.gathers,
        )

    def follow(self, ids: Tensor, answers: Tensor) -> None:
        follow(ids, answers)

    def rms_norm(
        self,
        x: Tensor,
        weight: Tensor,
        eps: float,
        out: Tensor,
        temp: Temp,
        added: Tensor | None = None,
    ) -> None:
        norm.norm(x, weight, None, eps, out, added)

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
        norm.norm(x, weight, bias, eps, out, added)

    def _timed(self, work: Callable[[], None]) -> float:
        return self._recorder.time(work)

    def pack(self, weight: Tensor) -> None:
        self._products.note(weight)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
        self._products.linear(x, weight, bias, out, self._timed)

    def angles(
        self,
        positions: Tensor,
        frequencies: Tensor,
        scale: float,
        cos: Tensor,
        sin: Tensor,
        temp: Temp,
    ) -> None:
        rotary.angles(positions, frequencies, scale, cos, sin)

    def store_kv(
        self,
        planes: Tensor,
        rows: Tensor,
        qkv: Tensor,
        temp: Temp,
        turn: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        if turn is None:
            heads = qkv.shape[1] - 2 * planes.shape[2]
            store(planes, rows, qkv[: len(rows), heads:].view(-1, *planes.shape[1:]))
        else:
            rotary.rotate_and_store(planes, rows, qkv, *turn)

    def plan_attention(
        self, kv: KvPlanes, windows: Sequence[int | None], segments: Sequence[Segment], temp: Temp
    ) -> AttentionPlan:
        assert isinstance(temp, Room)
        table = SequenceTable(temp.table, temp.paged)
        if self._tables is None:
            table.write(segments)
        else:
            table.fix(segments)
            self._tables.append(table)
        return TableAttention(kv, windows, table, temp)

    def logit_temp(self, scratch: Scratch, rows: int, width: int, top: int) -> Temp:
        return draw.Room.take(scratch, rows, width)

    def sample(self, x: Tensor, how: Tensor, changes: Changes, out: Tensor, temp: Temp) -> None:
        assert isinstance(temp, draw.Room)
        draw.sample(x, how, changes, out, temp)

    def score(self, x: Tensor, targets: Tensor, values: Tensor, ids: Tensor, temp: Temp) -> None:
        assert isinstance(temp, draw.Room)
        super().score(x, targets, values, ids, temp.report)

    def activate(self, activation: Activation, x: Tensor, gated: bool, out: Tensor) -> None:
        activate.activate(activation, x, gated, out)
