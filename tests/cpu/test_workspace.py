"""The workspace is a stack of views, and the counter climbs exactly as high."""

from __future__ import annotations

import pytest
import torch
from device_half import aligned
from hypothesis import given
from hypothesis import strategies as st

from ellm.kernels.scratch import Scratch, scope
from ellm.runtime.views import view
from ellm.runtime.workspace import ALIGNMENT, Workspace, WorkspaceCounter

DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.bool)

shapes = st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple)
takes = st.tuples(st.just("take"), shapes, st.sampled_from(DTYPES))
moves = st.one_of(takes, st.just(("mark",)), st.just(("release",)))


def room(nbytes: int = 1 << 16) -> tuple[torch.Tensor, Workspace]:
    memory = aligned(nbytes)
    return memory, Workspace(memory.data_ptr(), nbytes)


@given(st.lists(moves, max_size=30))
def test_live_tensors_never_overlap_and_the_counter_agrees(script: list[tuple]) -> None:  # type: ignore[type-arg]
    memory, workspace = room()
    counter = WorkspaceCounter()
    marks: list[tuple[int, int]] = []
    live: list[torch.Tensor] = []
    for move in script:
        if move[0] == "take":
            tensor = workspace.take(move[1], move[2])
            assert tensor.shape == move[1]
            assert tensor.dtype == move[2]
            assert tensor.is_contiguous()
            start = tensor.data_ptr() - memory.data_ptr()
            if tensor.numel():
                assert start % ALIGNMENT == 0
                assert all(start >= end_of(old) - memory.data_ptr() for old in live if old.numel())
                assert end_of(tensor) - memory.data_ptr() <= workspace.mark()
            live.append(tensor)
            assert counter.take(move[1], move[2]).dtype == move[2]
        elif move[0] == "mark":
            assert workspace.mark() == counter.mark()
            marks.append((workspace.mark(), len(live)))
        elif marks:
            mark, count = marks.pop()
            workspace.release(mark)
            counter.release(mark)
            del live[count:]
        assert workspace.peak == counter.peak


def end_of(tensor: torch.Tensor) -> int:
    return tensor.data_ptr() + tensor.numel() * tensor.itemsize


def test_a_scope_gives_back_what_was_taken_inside_even_on_an_error() -> None:
    _, workspace = room()

    def fail(scratch: Scratch) -> None:
        with scope(scratch) as inner:
            inner.take((10,), torch.float32)
            raise KeyError

    with pytest.raises(KeyError):
        fail(workspace)
    assert workspace.mark() == 0
    assert workspace.peak == ALIGNMENT


def test_taking_more_than_the_address_room_is_our_bug() -> None:
    _, workspace = room(1024)
    with pytest.raises(AssertionError):
        workspace.take((1025,), torch.uint8)


def test_a_view_shares_memory_and_may_be_far_larger_than_what_is_mapped() -> None:
    memory = aligned(256)
    seen = view(memory.data_ptr(), 256, torch.int32)
    memory.zero_()
    seen[3] = 7
    assert memory[12] == 7
    assert view(memory.data_ptr(), 1 << 44, torch.bfloat16).numel() == 1 << 43
    assert view(memory.data_ptr(), 0).numel() == 0


def test_what_was_taken_together_is_found_again() -> None:
    memory, workspace = room()
    calls = []

    def take(scratch: Scratch) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(scratch.mark())
        kept = scratch.take((10,), torch.float32)
        mark = scratch.mark()
        passing = scratch.take((100,), torch.float32)
        scratch.release(mark)
        return kept, passing

    first = workspace.again("pair", take)
    top, peak = workspace.mark(), workspace.peak
    workspace.reset()
    again = workspace.again("pair", take)
    assert all(one is other for one, other in zip(again, first, strict=True))
    assert (workspace.mark(), workspace.peak) == (top, peak)
    assert peak > top
    # Further up it is something else, and so is another key.
    assert workspace.again("pair", take)[0].data_ptr() > first[0].data_ptr()
    workspace.reset()
    workspace.again("other", take)
    assert calls == [0, top, 0]
    assert len(memory)  # alive until here
