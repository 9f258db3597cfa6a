"""Copies of a layer's KV wait until a GPU has really computed the layer."""

from __future__ import annotations

import torch

from ellm.core.executor import Ferry


class OrderedFerry:
    """Passes a ferry's calls on once the stream that computes has come as far as the host."""

    def __init__(self, ferry: Ferry) -> None:
        self._ferry = ferry

    def enter(self, layer: int) -> None:
        self._ferry.enter(layer)

    def leave(self, layer: int) -> None:
        torch.cuda.current_stream().synchronize()
        self._ferry.leave(layer)
