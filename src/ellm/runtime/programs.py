"""Recorded steps, kept by what they serve."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from ellm.kernels.ops import Program

# Where traffic has more forms of steps than that, those that were met longest ago are forgotten.
MOST_PROGRAMS = 512


class Programs:
    """The programs of one runner.

    Where recording is `dear` (a captured graph takes longer than the step itself), a step is
    recorded when it is met for the second time: many forms of steps with prompts never are.
    """

    def __init__(self, dear: bool) -> None:
        self._dear = dear
        self._kept: OrderedDict[Hashable, Program | None] = OrderedDict()

    def __len__(self) -> int:
        return sum(program is not None for program in self._kept.values())

    def find(self, key: Hashable, record: Callable[[], Program | None]) -> Program | None:
        """The program for `key`, recorded now if it is time; None to do without."""
        known = key in self._kept
        program = self._kept.get(key)
        if known:
            self._kept.move_to_end(key)
        if program is None and (known or not self._dear):
            program = record()
        if program is not None or self._dear:
            self._kept[key] = program
        if len(self._kept) > MOST_PROGRAMS:
            self._kept.popitem(last=False)
        return program
