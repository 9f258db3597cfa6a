"""The benchmark's models of PyTorch's allocators do what its documentation says they do.

The sizes are those of the comments in c10/cuda/CUDACachingAllocator.cpp and of the notes on memory
management in PyTorch's documentation.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks/gmlake"))

from caching_model import CachingModel, round_size, segment_size
from expandable_model import ExpandableModel
from traces import load, peak_bytes, save

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def take(model: CachingModel, *sizes: int) -> list[int]:
    found = [model.allocate(size) for size in sizes]
    assert None not in found
    return [address for address in found if address is not None]


@pytest.mark.parametrize(
    ("size", "rounded"), [(1, 512), (512, 512), (513, 1024), (MIB, MIB), (MIB + 1, MIB + 512)]
)
def test_sizes_are_rounded_to_512_bytes(size: int, rounded: int) -> None:
    assert round_size(size) == rounded


@pytest.mark.parametrize(
    ("size", "segment"),
    [
        (512, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 512, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 512, 12 * MIB),
    ],
)
def test_segments_have_the_documented_sizes(size: int, segment: int) -> None:
    assert segment_size(size) == segment


def test_small_and_large_requests_have_pools_of_their_own() -> None:
    model = CachingModel(GIB)
    take(model, KIB, 5 * MIB)
    assert model.reserved == 22 * MIB
    take(model, MIB, 10 * MIB - 512)
    assert model.reserved == 22 * MIB


def test_two_of_7_mib_share_a_segment_and_the_third_needs_another() -> None:
    model = CachingModel(GIB)
    take(model, 7 * MIB, 7 * MIB)
    assert model.calls["malloc"] == 1
    take(model, 7 * MIB)
    assert model.calls["malloc"] == 2


def test_a_large_block_is_cut_only_if_more_than_1_mib_is_left() -> None:
    model = CachingModel(GIB)
    take(model, 11 * MIB)  # of a segment of 12
    take(model, MIB + 512)
    assert model.reserved == 32 * MIB
    model = CachingModel(GIB)
    take(model, 11 * MIB - 512)  # of 12: 1 MiB and 512 bytes are left
    take(model, MIB + 512)
    assert model.reserved == 12 * MIB


def test_the_smallest_block_that_fits_is_taken() -> None:
    model = CachingModel(GIB)
    large, small = take(model, 30 * MIB, 12 * MIB)
    model.free(large)
    model.free(small)
    assert take(model, 11 * MIB) == [small]
    assert take(model, 11 * MIB) == [large]


def test_free_neighbours_are_joined_within_a_segment_only() -> None:
    model = CachingModel(40 * MIB)
    first, second, third = take(model, 9 * MIB, 9 * MIB, 9 * MIB)
    model.free(first)
    model.free(second)
    assert take(model, 18 * MIB) == [first]
    model.free(first)
    model.free(third)
    # 40 MiB are cached, in two segments: they go back and a larger one is made.
    take(model, 30 * MIB)
    assert model.calls["free"] == 2


def test_fragments_of_two_segments_are_out_of_memory_for_one_request() -> None:
    model = CachingModel(40 * MIB)
    kept, gone, also_kept, also_gone = take(model, 9 * MIB, 9 * MIB, 9 * MIB, 9 * MIB)
    model.free(gone)
    model.free(also_gone)
    assert model.reserved - 18 * MIB == 22 * MIB
    assert model.allocate(12 * MIB) is None
    model.free(kept)
    model.free(also_kept)
    assert model.allocate(12 * MIB) is not None


def test_a_stream_does_not_take_what_another_freed() -> None:
    for model in (CachingModel(GIB), ExpandableModel(GIB)):
        first = model.allocate(12 * MIB, stream=0)
        assert first is not None
        model.free(first)
        assert model.allocate(12 * MIB, stream=1) != first
        assert model.allocate(12 * MIB, stream=0) == first


def test_cached_segments_stay_until_memory_is_short() -> None:
    model = CachingModel(GIB)
    for size in (12, 14, 16):
        model.free(*take(model, size * MIB))
    assert model.reserved == (12 + 14 + 16) * MIB
    model.empty_cache()
    assert model.reserved == 0


def test_expandable_segments_grow_in_pages_of_2_and_20_mib() -> None:
    model = ExpandableModel(GIB)
    take(model, KIB)
    assert model.reserved == 2 * MIB
    take(model, 5 * MIB)
    assert model.reserved == 22 * MIB
    # It begins in the page that is there already.
    first, second = take(model, 25 * MIB, 10 * MIB)
    assert model.reserved == 42 * MIB
    assert second == first + 25 * MIB
    assert model.calls["reserve"] == 2


def test_expandable_blocks_are_cut_to_512_bytes_in_both_pools() -> None:
    model = ExpandableModel(GIB)
    first, second = take(model, 3 * MIB + 512, 3 * MIB)
    assert second == first + 3 * MIB + 512


def test_expandable_segments_tile_a_batch_that_grew_by_one() -> None:
    """The example of PyTorch's note on expandable segments: every tensor a little larger."""
    reserved = {}
    for kind in (CachingModel, ExpandableModel):
        model = kind(GIB)
        held = take(model, *[24 * MIB] * 10)
        for address in held:
            model.free(address)
        take(model, *[26 * MIB] * 10)
        reserved[kind] = model.reserved
    assert reserved == {CachingModel: 500 * MIB, ExpandableModel: 260 * MIB}


def test_expandable_pages_that_are_free_go_where_they_are_needed() -> None:
    model = ExpandableModel(100 * MIB)
    first, second, third = take(model, 40 * MIB, 20 * MIB, 40 * MIB)
    model.free(first)
    model.free(third)
    # No free block has 60 MiB, so the free pages are taken away and put behind one.
    assert take(model, 60 * MIB) == [second + 20 * MIB]
    assert model.calls["unmap"] == 4
    assert model.reserved == 80 * MIB
    take(model, 20 * MIB)
    assert model.allocate(20 * MIB) is None


def test_pages_that_are_partly_used_stay() -> None:
    model = ExpandableModel(60 * MIB)
    first, second = take(model, 30 * MIB, 5 * MIB)
    model.free(first)
    assert model.allocate(50 * MIB) is None
    assert model.reserved == 20 * MIB
    # The end of the page behind the first that was taken away is still a free block.
    assert take(model, 10 * MIB) == [second - 10 * MIB]


@given(
    wishes=st.lists(st.tuples(st.integers(1, 30 * MIB), st.integers(0, 1 << 16)), max_size=60),
    kind=st.sampled_from((CachingModel, ExpandableModel)),
    capacity=st.sampled_from((100 * MIB, GIB)),
)
def test_what_is_handed_out_never_overlaps_and_is_reserved(
    wishes: list[tuple[int, int]], kind: type[CachingModel], capacity: int
) -> None:
    model, live = kind(capacity), dict[int, int]()
    for size, turn in wishes:
        if turn % 3 == 0 and live:
            gone = sorted(live)[turn % len(live)]
            model.free(gone)
            del live[gone]
            continue
        address = model.allocate(size)
        if address is None:
            assert model.reserved <= capacity
            continue
        assert all(a + n <= address or address + size <= a for a, n in live.items())
        live[address] = size
        assert sum(live.values()) <= model.reserved <= model.peak_reserved <= capacity
    for address in live:
        model.free(address)
    model.empty_cache()
    assert model.reserved == 0


def test_a_trace_survives_being_saved(tmp_path: Path) -> None:
    trace = [100, 50, -1, 70, -3]
    save(trace, tmp_path / "traces/one.gz")
    assert load(tmp_path / "traces/one.gz") == trace
    assert peak_bytes(trace) == 150
