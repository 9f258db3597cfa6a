"""The room a step takes beside its KV, without a decoder to ask."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.core.plan import StepShape
from ellm.core.units import KIB, round_up

# Most rows that reach the vocabulary at once (runtime/runner.py).
LOGIT_BLOCK = 64
ALIGNMENT = 64
_BITS = 3


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes of a step, by models/decoder.py and runtime/runner.py.

    A layer takes `token_bytes` for each token, of which `kept_bytes` (None for all) are still taken
    when `row_bytes` for each row of logits and `fixed_bytes` are.  Numbers of rows are rounded as
    kernels/heights.py does it, eight heights an octave.
    """

    token_bytes: int = 1 * KIB
    row_bytes: int = 1 * KIB
    fixed_bytes: int = 0
    kept_bytes: int | None = None

    def __call__(self, shape: StepShape) -> int:
        tokens, rows = height(shape.tokens), min(height(shape.logit_rows), LOGIT_BLOCK)
        kept = self.token_bytes if self.kept_bytes is None else self.kept_bytes
        end = kept * tokens + self.row_bytes * rows + (self.fixed_bytes if rows else 0)
        return round_up(max(self.token_bytes * tokens, end), ALIGNMENT)


def height(rows: int) -> int:
    return round_up(rows, 1 << max(0, rows.bit_length() - _BITS - 1))
