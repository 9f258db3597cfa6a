"""The sequences of a step as kernels on the device read them, written in one copy.

int64, at an address that a captured step keeps:

    those that decode │ row of the query   first row of the keys, or where its pages are   length
    prompts (int32)   │ ends of their queries, first rows of their keys, lengths: run by run

Pages are rows in a tensor of their own; an entry says how many int64 after the table's own address
its first page stands.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ellm.kernels.ops import Segment
from ellm.kernels.scratch import Scratch

ENTRY = 3
"""Numbers of a sequence that decodes; those of a prompt's sequence take less."""

_SLACK = 8


@dataclass(frozen=True, slots=True)
class PromptRun:
    """Prompts whose queries lie side by side, in batch rows [first, first + count).

    `query_ends` and `key_starts` are int32 [n + 1], `lengths` int32 [n].  A prompt in pages is a
    run of its own, and `pages` (int64) are the rows where they begin.
    """

    first: int
    count: int
    longest_query: int
    longest: int
    query_ends: Tensor
    key_starts: Tensor
    lengths: Tensor
    pages: Tensor | None


class SequenceTable:
    """What `write` last put there.  `decoding` entries count, `prompts` are the rest.

    `span` is the size of a page, None where every sequence is one run of rows.
    """

    def __init__(self, room: Tensor, paged: bool) -> None:
        self.entries = room
        self.span: int | None = None
        self.decoding = 0
        self._least = 0
        self.prompts: list[PromptRun] = []
        self._paged = paged
        self._pages: Tensor | None = None

    @staticmethod
    def take(scratch: Scratch, rows: int) -> Tensor:
        """Room for the sequences of as many rows."""
        return scratch.take((ENTRY * rows + _SLACK,), torch.int64)

    def fix(self, segments: Sequence[Segment]) -> None:
        """From now on as many sequences decode as there is room for: some have no length.

        `segments` are some of them, and are not written.
        """
        self._least = self.decoding = (len(self.entries) - _SLACK) // ENTRY
        if self._paged:
            self.span = _page_size(segments)

    def write(self, segments: Sequence[Segment]) -> None:
        """Describe these sequences."""
        places = self._places(segments)
        numbers = array("q")
        runs: list[list[tuple[Segment, int]]] = []
        run: list[tuple[Segment, int]] = []
        for segment, place in zip(segments, places, strict=True):
            if segment.count == 1:
                numbers.extend((segment.first, place, segment.length))
                run = []
                continue
            if not run or self._paged:
                run = []
                runs.append(run)
            run.append((segment, place))
        self.decoding = len(numbers) // ENTRY
        if self.decoding < self._least:
            numbers.frombytes(bytes(numbers.itemsize * ENTRY * (self._least - self.decoding)))
            self.decoding = self._least
        begin = 2 * len(numbers)
        small = array("i")
        for run in runs:
            _describe(run, small, self._paged)
        small.extend([0] * (len(small) % 2))
        numbers.frombytes(small.tobytes())
        assert len(numbers) <= len(self.entries), (len(numbers), len(self.entries))
        if numbers:
            fresh = torch.frombuffer(numbers, dtype=torch.int64)
            # What is not pinned is staged before the call returns.
            self.entries[: len(numbers)].copy_(fresh, non_blocking=True)
        self.prompts = self._views(runs, self.entries.view(torch.int32)[begin:])

    def _places(self, segments: Sequence[Segment]) -> list[int]:
        if self._paged:
            return self._send_pages(segments)
        assert all(len(one.table.starts) == 1 for one in segments), "pages, and no room for them"
        return [one.table.starts[0] for one in segments]

    def _send_pages(self, segments: Sequence[Segment]) -> list[int]:
        """Put all pages on the device; where those of each sequence are, seen from the table."""
        starts = array("q")
        places = []
        for segment in segments:
            places.append(len(starts))
            starts.extend(segment.table.starts)
        self.span = _page_size(segments)
        device = self.entries.device
        self._pages = torch.frombuffer(starts, dtype=torch.int64).to(device, non_blocking=True)
        away = self._pages.data_ptr() - self.entries.data_ptr()
        assert away % starts.itemsize == 0, away
        return [away // starts.itemsize + place for place in places]

    def _views(
        self, runs: Sequence[Sequence[tuple[Segment, int]]], numbers: Tensor
    ) -> list[PromptRun]:
        found = []
        for run in runs:
            segments, count = [segment for segment, _ in run], len(run)
            ends, starts = numbers[: count + 1], numbers[count + 1 : 2 * count + 2]
            lengths, numbers = numbers[2 * count + 2 :][:count], numbers[3 * count + 2 :]
            found.append(
                PromptRun(
                    first=segments[0].first,
                    count=sum(segment.count for segment in segments),
                    longest_query=max(segment.count for segment in segments),
                    longest=max(segment.length for segment in segments),
                    query_ends=ends,
                    key_starts=starts,
                    lengths=lengths,
                    pages=self._pages_at(run[0][1]) if self._paged else None,
                )
            )
        return found

    def _pages_at(self, place: int) -> Tensor:
        """From where an entry says that its pages are."""
        assert self._pages is not None
        away = self._pages.data_ptr() - self.entries.data_ptr()
        return self._pages[place - away // self._pages.itemsize :]


def _page_size(segments: Sequence[Segment]) -> int:
    spans = {segment.table.span for segment in segments}
    assert len(spans) == 1, f"pages of different sizes: {spans}"
    return spans.pop()


def _describe(run: Sequence[tuple[Segment, int]], to: array[int], paged: bool) -> None:
    """Ends of the queries of a run, then first rows and lengths of its keys."""
    ends = [0]
    for segment, _ in run:
        ends.append(ends[-1] + segment.count)
    to.extend(ends)
    to.extend([0 if paged else place for _, place in run])
    to.append(0)
    to.extend([segment.length for segment, _ in run])
