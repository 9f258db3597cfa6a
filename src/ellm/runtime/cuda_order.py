"""When memory that a GPU works on may be unmapped or copied by the host.

Driver calls and copies are not ordered with the stream that computes.  A fence is an event on it;
a ferry that copies a layer's KV waits until the layer has really been computed.
"""

from __future__ import annotations

import torch

from ellm.core.executor import Ferry


class CudaFence:
    """memory.unmapping.Fence: the moment after all work given to the current stream so far."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record()

    def passed(self) -> bool:
        return bool(self._event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        self._event.synchronize()


class OrderedFerry:
    """Passes a ferry's calls on once the stream has come as far as the host."""

    def __init__(self, ferry: Ferry) -> None:
        self._ferry = ferry

    def enter(self, layer: int) -> None:
        self._ferry.enter(layer)

    def leave(self, layer: int) -> None:
        torch.cuda.current_stream().synchronize()
        self._ferry.leave(layer)
