"""Attention of prompts, whole or in chunks, by the FlashAttention kernels that PyTorch has.

Keys in one run of rows are attended where they lie: `cum_seq_k` says in which row a sequence
begins and `seqused_k` how long it is, so that the whole plane can be handed over, of which most
has no memory behind it.  Pages are first gathered.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ellm.kernels.cuda.rows import gather
from ellm.kernels.cuda.table import PromptRun

# Causal masks end at the bottom right: the last query sees all keys.
_flash: Any = torch.ops.aten._flash_attention_forward
# Of keys: FlashAttention asks for a bound, takes no more room for a larger one, and has another
# kernel for windows beyond it: so launched and captured steps have the same.
_ANY_LENGTH = 2**30
# `int` of the kernels' own tables.
_MOST_ROWS = 2**31 - 1


def attend(
    queries: Tensor,
    planes: Tensor,
    out: Tensor,
    run: PromptRun,
    gathered: Tensor,
    *,
    window: int | None,
    span: int | None,
) -> None:
    """The rows of `run` of [T, heads, D], where `planes` have been stored already."""
    if run.pages is not None:
        assert span is not None
        keys = gathered[: run.longest]
        gather(planes, run.pages, span, keys)
    else:
        keys = planes[:_MOST_ROWS]
    mine = slice(run.first, run.first + run.count)
    answer = _flash(
        queries[mine],
        keys[:, 0],
        keys[:, 1],
        run.query_ends,
        run.key_starts,
        run.longest_query,
        _ANY_LENGTH,
        0.0,
        True,
        False,
        scale=None,
        window_size_left=-1 if window is None else window - 1,
        window_size_right=0,
        seqused_k=run.lengths,
    )
    out[mine].copy_(answer[0])
