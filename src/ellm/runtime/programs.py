"""Recorded steps, kept by what they serve."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from ellm.kernels.ops import Program

# Where traffic has more forms of steps than that, those that were met longest ago are forgotten.
MOST_PROGRAMS = 512
# A step that could not be recorded is done without so often before it is tried again.
PATIENCE = 256


class Programs:
    """The programs of one runner.

    Where recording is `dear` (a captured graph takes longer than the step itself), a step is
    recorded when it is met for the second time: many forms of steps with prompts never are.
    """

    def __init__(self, dear: bool) -> None:
        self._dear = dear
        # A number: how often a step is still done without.
        self._kept: OrderedDict[Hashable, Program | int] = OrderedDict()

    def __len__(self) -> int:
        return sum(not isinstance(kept, int) for kept in self._kept.values())

    def find(self, key: Hashable, record: Callable[[], Program | None]) -> Program | None:
        """The program for `key`, recorded now if it is time; None to do without."""
        kept = self._kept.pop(key, int(self._dear))
        if kept == 0:
            found = record()
            kept = PATIENCE if found is None else found
        elif isinstance(kept, int):
            kept -= 1
        self._kept[key] = kept
        if len(self._kept) > MOST_PROGRAMS:
            self._kept.popitem(last=False)
        return None if isinstance(kept, int) else kept
