"""The sequences of a step as kernels on the device read them, written in one copy.

int64, at an address that a captured step keeps:

    those that decode │ row of the query   first row of the keys, or where its pages are   length
    prompts (int32)   │ ends of their queries, first rows of their keys, lengths: run by run

Pages are rows in a tensor of their own; an entry says how many int64 after the table's own address
its first page stands.  Entries of no length are padding, or rows between prompts that are not
theirs.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from ellm.kernels.numbers import send
from ellm.kernels.ops import Segment
from ellm.kernels.scratch import Scratch

ENTRY = 3
"""Numbers of a sequence that decodes."""

_ROW = 5
"""Numbers for each row of a step: an entry that decodes, and three int32 of a prompt's."""

_SLACK = 8
# Of prompts at once: of a model 4096 wide in bfloat16, 64 MiB of answers.
_MOST_QUERIES = 8192

_Prompt: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Form:
    """How many entries the table of a step has: a captured step serves all that fit."""

    decoding: int
    prompts: int

    @classmethod
    def of(cls, segments: Sequence[Segment], rows: int, paged: bool) -> Form:
        """Of a step padded to so many rows.

        Beside prompts there are few forms: 0, 1, 4, 16, … entries of either kind.
        """
        decoding = sum(segment.count == 1 for segment in segments)
        if decoding == len(segments) or paged:
            return cls(decoding, 0)
        found = len(_cover(segments))
        return cls(min(_level(decoding), rows), min(_level(found), rows))


@dataclass(frozen=True, slots=True)
class _Run:
    """Entries (queries, first row and length of the keys) of prompts from batch row `first` on.

    `place` is where their pages are, if they are in pages.
    """

    first: int
    entries: list[_Prompt]
    place: int = 0


@dataclass(frozen=True, slots=True)
class PromptRun:
    """Prompts whose queries are in batch rows [first, first + count), and may be all there is.

    `query_ends` and `key_starts` are int32 [n + 1], `lengths` int32 [n], the greatest of them
    `longest`.  A prompt in pages is a run of its own, and `pages` (int64) are the rows where they
    begin.
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
        self.prompts: list[PromptRun] = []
        self._rows = (len(room) - _SLACK) // _ROW
        self._fixed: Form | None = None
        self._paged = paged
        self._pages: Tensor | None = None

    @staticmethod
    def take(scratch: Scratch, rows: int) -> Tensor:
        """Room for the sequences of as many rows."""
        return scratch.take((_ROW * rows + _SLACK,), torch.int64)

    def fix(self, segments: Sequence[Segment]) -> None:
        """From now on have room for all sequences of a form: some have no length.

        `segments` are some of them, and are not written.  Where all decode, there are as many as
        there are rows.
        """
        form = Form.of(segments, self._rows, self._paged)
        if not form.prompts:
            form = Form(self._rows, 0)
        self._fixed, self.decoding = form, form.decoding
        if self._paged:
            self.span = _page_size(segments)
        if form.prompts:
            self.prompts = [self._any(form)]

    def write(self, segments: Sequence[Segment]) -> None:
        """Describe these sequences."""
        places = self._places(segments)
        numbers, found = array("q"), 0
        for segment, place in zip(segments, places, strict=True):
            if segment.count == 1:
                numbers.extend((segment.first, place, segment.length))
                found += 1
        form = self._fixed or Form.of(segments, self._rows, self._paged)
        assert found <= form.decoding, (found, form)
        numbers.frombytes(bytes(numbers.itemsize * ENTRY * (form.decoding - found)))
        self.decoding = form.decoding
        runs = self._runs(segments, places)
        small = array("i")
        for run in runs:
            _describe(run.entries, form.prompts if self._fixed else len(run.entries), small)
        small.extend([0] * (len(small) % 2))
        numbers.frombytes(small.tobytes())
        assert len(numbers) <= len(self.entries), (len(numbers), len(self.entries))
        if numbers:
            send(numbers, self.entries)
        if self._fixed is None:
            self.prompts = self._views(runs)

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
        self._pages = torch.empty(len(starts), dtype=torch.int64, device=device)
        send(starts, self._pages)
        away = self._pages.data_ptr() - self.entries.data_ptr()
        assert away % starts.itemsize == 0, away
        return [away // starts.itemsize + place for place in places]

    def _runs(self, segments: Sequence[Segment], places: Sequence[int]) -> list[_Run]:
        """What prompts there are, of which those in pages are runs of their own."""
        if not self._paged:
            entries = _cover(segments)
            if self._fixed is not None:
                return [_Run(0, entries)] if self._fixed.prompts else []
            return _cut(0, entries)
        found = []
        for segment, place in zip(segments, places, strict=True):
            if segment.count > 1:
                whole = [(segment.count, 0, segment.length)]
                found += [replace(run, place=place) for run in _cut(segment.first, whole)]
        return found

    def _views(self, runs: Sequence[_Run]) -> list[PromptRun]:
        """Where `write` has put them, behind the entries that decode."""
        numbers, found = self._small(self.decoding), []
        for run in runs:
            size = len(run.entries)
            found.append(
                PromptRun(
                    first=run.first,
                    count=sum(count for count, _, _ in run.entries),
                    longest_query=max(count for count, _, _ in run.entries),
                    longest=max(length for _, _, length in run.entries),
                    query_ends=numbers[: size + 1],
                    key_starts=numbers[size + 1 : 2 * size + 2],
                    lengths=numbers[2 * size + 2 : 3 * size + 2],
                    pages=self._pages_at(run.place) if self._paged else None,
                )
            )
            numbers = numbers[3 * size + 2 :]
        return found

    def _any(self, form: Form) -> PromptRun:
        """All prompts of a step that are met as it is replayed, from its first row on."""
        numbers, count = self._small(form.decoding), form.prompts
        return PromptRun(
            first=0,
            count=self._rows,
            longest_query=self._rows,
            longest=0,  # not known, and nothing is gathered
            query_ends=numbers[: count + 1],
            key_starts=numbers[count + 1 : 2 * count + 2],
            lengths=numbers[2 * count + 2 : 3 * count + 2],
            pages=None,
        )

    def _small(self, decoding: int) -> Tensor:
        """The int32 behind so many entries that decode."""
        return self.entries.view(torch.int32)[2 * ENTRY * decoding :]

    def _pages_at(self, place: int) -> Tensor:
        """From where an entry says that its pages are."""
        assert self._pages is not None
        away = self._pages.data_ptr() - self.entries.data_ptr()
        return self._pages[place - away // self._pages.itemsize :]


def _page_size(segments: Sequence[Segment]) -> int:
    spans = {segment.table.span for segment in segments}
    assert len(spans) == 1, f"pages of different sizes: {spans}"
    return spans.pop()


def _level(count: int) -> int:
    """The next of 0, 1, 4, 16, 64, …"""
    return 4 ** (((count - 1).bit_length() + 1) // 2) if count else 0


def _cut(first: int, entries: Sequence[_Prompt]) -> list[_Run]:
    """Runs of so many rows at most: what FlashAttention answers is taken beside the workspace."""
    runs: list[_Run] = []
    left = 0
    for count, place, length in entries:
        done = 0
        while done < count:
            if not left:
                runs.append(_Run(first, []))
                left = _MOST_QUERIES
            some = min(count - done, left)
            done, left, first = done + some, left - some, first + some
            runs[-1].entries.append((some, place, max(0, length - (count - done))))
    return runs


def _cover(segments: Sequence[Segment]) -> list[_Prompt]:
    """Queries, first row and length of the keys of each prompt in one run of rows.

    Rows in front of a prompt that are of none are an entry too, without keys.
    """
    found, done = [], 0
    for segment in segments:
        if segment.count > 1:
            if segment.first > done:
                found.append((segment.first - done, 0, 0))
            found.append((segment.count, segment.table.starts[0], segment.length))
            done = segment.first + segment.count
    return found


def _describe(entries: Sequence[_Prompt], room: int, to: array[int]) -> None:
    """Ends of the queries of a run, then first rows and lengths of its keys; padded to `room`."""
    assert len(entries) <= room, (len(entries), room)
    spare = [0] * (room - len(entries))
    ends = [0]
    for count, _, _ in entries:
        ends.append(ends[-1] + count)
    to.extend(ends)
    to.extend([ends[-1]] * len(spare))
    to.extend([place for _, place, _ in entries])
    to.extend([*spare, 0])
    to.extend([length for _, _, length in entries])
    to.extend(spare)
