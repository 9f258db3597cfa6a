"""Where the CUDA backend is tested: on a device, or with stand-ins for one on the CPU.

TRITON_INTERPRET=1 has Triton interpret its kernels.  PyTorch's FlashAttention and CUDA's graphs are
then written out in Python.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put what is written here in the device's place, if there is to be none."""
    if not INTERPRETED:
        return
    from triton.runtime import interpreter

    from ellm.kernels.cuda import decoding, ops, prompts

    usual = interpreter._patch_lang_tensor

    def mended(tensor: Any, scope: Any) -> None:
        """Triton 3.6 takes an array of one number for a number, which NumPy 2.4 refuses."""
        usual(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", mended)
    monkeypatch.setattr(prompts, "_flash", flash_attention)
    monkeypatch.setattr(ops, "Recorder", Recorder)
    # A program that ends at once takes milliseconds too.
    monkeypatch.setattr(decoding, "_PROGRAMS", 24)
    monkeypatch.setattr(decoding, "_FEWEST_PARTS", 2)


class Recorder:
    """kernels.cuda.graph.Recorder: a graph is the work itself, from what lies in its buffers."""

    def warm(self, work: Callable[[], None]) -> None:
        work()

    def capture(self, work: Callable[[], None]) -> Repeated:
        from ellm.kernels.cuda.attention import TableAttention

        # Its table has not been written yet, and on a device nothing of this would be done.
        with patch.object(TableAttention, "run", lambda *_: None):
            work()
        return Repeated(work)

    def time(self, work: Callable[[], None]) -> float:
        """All ways take as long: the first is kept."""
        return 0.0


@dataclass
class Repeated:
    work: Callable[[], None]

    def replay(self) -> None:
        from ellm.kernels.cuda.table import SequenceTable

        with patch.object(SequenceTable, "write", SequenceTable.fix):
            self.work()


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_ends: Tensor,
    key_starts: Tensor,
    longest_query: int,
    longest_key: int,
    dropout: float,
    causal: bool,
    debug: bool,
    **options: Any,
) -> tuple[Tensor]:
    """`aten::_flash_attention_forward` for sequences of different lengths."""
    assert query_ends.dtype == key_starts.dtype == options["seqused_k"].dtype == torch.int32
    assert causal
    assert not debug
    out = torch.full(query.shape, float("nan"), dtype=query.dtype)
    left = options["window_size_left"]
    group = query.shape[1] // key.shape[1]
    places = zip(key_starts.tolist(), options["seqused_k"].tolist(), strict=False)
    for (begin, end), (first, length) in zip(pairwise(query_ends.tolist()), places, strict=True):
        if not length:
            continue
        assert end - begin <= longest_query
        assert length <= longest_key
        keys, values = (
            x[first : first + length].float().repeat_interleave(group, 1) for x in (key, value)
        )
        scores = torch.einsum("qhd,thd->hqt", query[begin:end].float(), keys)
        scores = scores / query.shape[2] ** 0.5
        at = torch.arange(length - (end - begin), length)[:, None] - torch.arange(length)
        hidden = (at < 0) | ((at > left) if left >= 0 else torch.zeros_like(at, dtype=torch.bool))
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        out[begin:end] = torch.einsum("hqt,thd->qhd", weights, values).to(out.dtype)
    return (out,)
