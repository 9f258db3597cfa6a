"""The op table: what a backend must be able to do.

Every op writes into a given output.  T is the number of tokens in the step, all sequences side by
side; weights are [out, in], as checkpoints have them.  Tensors are in the model's dtype unless it
says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ellm.core.layers import KvTable
from ellm.core.plan import StepShape
from ellm.kernels.activation import Activation
from ellm.kernels.scratch import Scratch


@dataclass(frozen=True, slots=True)
class Dims:
    """The widths that decide how much room an op needs.

    `windows` are the distinct ones of the layers, None for full attention; `rotary_dim` 0 is none.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    rotary_dim: int
    windows: tuple[int | None, ...]
    dtype: torch.dtype


class Temp:
    """A backend's intermediates for one step; only the backend that took it looks inside."""

    __slots__ = ()


# One for each sequence and step: freezing it would cost three times as much.
@dataclass(slots=True)
class Segment:
    """One sequence's rows of the step.

    batch rows   [first, first + count)
    positions    [start, start + count), of which all before `start` are in the arena already
    """

    first: int
    count: int
    start: int
    table: KvTable

    @property
    def length(self) -> int:
        return self.start + self.count


@dataclass(frozen=True, slots=True)
class KvPlanes:
    """Keys and values of all layers where they lie.

    `layers[i]` is [rows, 2, kv_heads, head_dim], indexed by a table's rows.  Most rows have no
    memory behind them: only rows of a table may be touched.
    """

    layers: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """Logits to be taken for others: row r has `values` at `ids`, each [starts[r], starts[r + 1]).

    `starts` is int64 [R + 1] and `ids` int64, in ordinary memory; `values` float32, with the
    logits.  No row names an id twice.
    """

    starts: Tensor
    ids: Tensor
    values: Tensor


class AttentionPlan(Protocol):
    """One step's attention, prepared once and run for every layer."""

    def run(self, layer: int, queries: Tensor, out: Tensor) -> None:
        """Causal attention of [T, heads, head_dim] over the layer's keys and values, into `out`.

        The step's own keys and values must have been stored already.
        """
        ...


class Program(Protocol):
    """Operations recorded at fixed addresses, to be done for other tokens than those they met."""

    def run(self, rows: int, segments: Sequence[Segment]) -> None:
        """Do them with the first `rows` rows of every matrix, and attention of these sequences."""
        ...


class Ops(Protocol):
    """A backend.  Stateless: what a call needs is in its arguments.

    `name` tells people, and files of measured times, which kernels these are.
    """

    name: str

    def padded(self, rows: int) -> int:
        """How many rows to give matrices of `rows`, never fewer for more.

        A backend that keeps something for every height it has met asks for few distinct ones.
        What the rows added hold means nothing.
        """
        ...

    def key(self, shape: StepShape, segments: Sequence[Segment]) -> Hashable | None:
        """Which steps of as many rows a program of `trace` serves: those of the same key.

        None for work that is better not recorded.  `segments` are none for work without attention.
        """
        ...

    def trace(self, work: Callable[[], None], shape: StepShape) -> Program | None:
        """Record the ops that `work` asks for; None from a backend that cannot for such a step.

        `work` is for as many rows as its matrices have, of which some mean nothing.  It may be
        called more than once, and its ops may be done: they are done again by the program, which
        serves steps of the same `key`.
        """
        ...

    def temp(self, scratch: Scratch, dims: Dims, shape: StepShape) -> Temp:
        """Take the room that the other ops need in a step of this shape, padded already.

        Never less for a shape that is larger in any respect.
        """
        ...

    def pack(self, weight: Tensor) -> None:
        """Bring a matrix of [out, in] into the order that `linear` and `embed` read, in place."""
        ...

    def embed(self, weight: Tensor, ids: Tensor, out: Tensor) -> None:
        """Rows `ids` (int64) of a packed matrix, in the first rows of `out`."""
        ...

    def follow(self, ids: Tensor, answers: Tensor) -> None:
        """Put `answers[-1 - id]` for every id (int64 [T]) below 0, in place; never recorded."""
        ...

    def select(self, x: Tensor, rows: Tensor, out: Tensor) -> None:
        """Rows `rows` (int64) of `x`, which is not packed."""
        ...

    def rms_norm(
        self,
        x: Tensor,
        weight: Tensor,
        eps: float,
        out: Tensor,
        temp: Temp,
        added: Tensor | None = None,
    ) -> None:
        """x / rms(x) × weight over the last axis, the mean in float32.

        With `added` ([T, hidden] as `x`) first what `add` does: bit for bit the two, one after the
        other.  `out` may be either of them.
        """
        ...

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
        """(x - mean) / deviation × weight + bias over the last axis, in float32.

        `added` and `out` are as for `rms_norm`.
        """
        ...

    def add(self, x: Tensor, residual: Tensor) -> None:
        """residual += x."""
        ...

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
        """x @ weight.T + bias, with a packed weight."""
        ...

    def angles(
        self,
        positions: Tensor,
        frequencies: Tensor,
        scale: float,
        cos: Tensor,
        sin: Tensor,
        temp: Temp,
    ) -> None:
        """Cosine and sine of position × frequency, times `scale`, as [T, 1, 1, rotary_dim / 2].

        Computed in float32: positions is int64 [T] at most, frequencies float32 [rotary_dim / 2].
        """
        ...

    def store_kv(
        self,
        planes: Tensor,
        rows: Tensor,
        qkv: Tensor,
        temp: Temp,
        turn: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Put keys and values into rows `rows` (int64 [T] at most) of one layer's planes.

        They follow the queries in [T, heads + 2 × kv_heads, head_dim].  With `turn`, cosine and
        sine of `angles`, the queries, in place, and the keys are first rotated: the first
        rotary_dim numbers of each head, number i of the first half of them paired with number i
        of the second.  What is left in place of the keys means nothing.

        In work that is recorded, rows below 0 stand for none.
        """
        ...

    def plan_attention(
        self, kv: KvPlanes, windows: Sequence[int | None], segments: Sequence[Segment], temp: Temp
    ) -> AttentionPlan:
        """Prepare a step; `windows` has an entry for each layer."""
        ...

    def logit_temp(self, scratch: Scratch, rows: int, width: int, top: int) -> Temp:
        """Take the room that `sample` and `score` need: never less for more of anything."""
        ...

    def sample(self, x: Tensor, how: Tensor, changes: Changes, out: Tensor, temp: Temp) -> None:
        """A token for each row of logits [R, V], into int64 [R]; see kernels/logits.py.

        `how` is float64 [R, 5] in ordinary memory, whole numbers but the first and the last two:
        temperature (0 takes the first of the likeliest), how deep below the likeliest a token may
        be (in 2**-24 octaves, DEEPEST at most), top_k (0 for all), top_p, and the place in [0, 1)
        of what is left, side by side in the order of ids.  Equal tokens are kept or left together.
        """
        ...

    def score(self, x: Tensor, targets: Tensor, values: Tensor, ids: Tensor, temp: Temp) -> None:
        """How likely `targets` (int64 [R]) are by logits [R, V], and which tokens are likeliest.

        `values` (float32) and `ids` (int64) are [R, 1 + top]: the target's log-probability and
        rank, then those of the likeliest and who they are, in falling order.  Rows with a target
        below 0 are left as they are.
        """
        ...

    def activate(self, activation: Activation, x: Tensor, gated: bool, out: Tensor) -> None:
        """act(x), or act(first half of x) × second half; x may be overwritten."""
        ...
