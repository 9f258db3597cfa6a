"""Stop strings in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text on, except for an end that may be the beginning of a stop string.

        text  │ passed on ······│ held ····│
                                └ may begin a stop string

    The stop string that is complete first ends the text (of two that end together, the longer),
    so the result does not depend on where the pieces were cut.
    """

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        self._stops = tuple(sorted(stops, key=len, reverse=True))
        self._include = include
        self._held = ""
        self.found: str | None = None

    def push(self, text: str, armed: bool = True) -> str:
        """What may be shown now.  Unless `armed`, no stop string can end inside `text`.

        Once `found` is set the text has ended, and nothing more may be pushed.
        """
        assert self.found is None, self.found
        exempt = 0 if armed else len(self._held) + len(text)
        held = self._held + text
        if not self._stops:
            return held
        end = self._first_end(held, exempt)
        if self.found is not None:
            self._held = ""
            return held[: end if self._include else end - len(self.found)]
        keep = self._undecided(held)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """What was held back, when no more text will come."""
        held, self._held = self._held, ""
        return held

    def _first_end(self, text: str, exempt: int) -> int:
        best = len(text) + 1
        for stop in self._stops:
            place = text.find(stop, max(0, exempt - len(stop) + 1))
            if place >= 0 and place + len(stop) < best:
                best, self.found = place + len(stop), stop
        return best

    def _undecided(self, text: str) -> int:
        """Length of the longest end of `text` that begins some stop string."""
        longest = min(len(text), len(self._stops[0]) - 1)
        for size in range(longest, 0, -1):
            end = text[len(text) - size :]
            if any(len(stop) > size and stop.startswith(end) for stop in self._stops):
                return size
        return 0
