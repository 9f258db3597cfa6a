"""Beginnings that are kept for later: which go first, how far, and that the index knows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.core.layers import LayerSpec
from ellm.kv.contiguous import ContiguousStore
from ellm.kv.geometry import KvGeometry
from ellm.kv.kept import KeptPrefixes
from ellm.kv.paged import PagedStore
from ellm.kv.prefix import PrefixIndex
from ellm.memory.drivers.null import NullDriver
from ellm.memory.pool import ChunkPool

CHUNK = 64
BLOCK = 4
GEOMETRY = KvGeometry(LayerSpec(kv_heads=1, head_dim=2, itemsize=2), 2, 2)  # 16 bytes a token
LAYOUTS = pytest.mark.parametrize("layout", ["contiguous", "paged"])
WARM = pytest.mark.parametrize("warm", [False, True])


class Scene:
    """Sequences that end and are kept, over either layout; a chunk holds four tokens."""

    def __init__(self, layout: str, warm: bool = False, chunks: int = 100) -> None:
        self.pool = ChunkPool(NullDriver(chunks * CHUNK, CHUNK), chunks * CHUNK)
        self.store: Any = (
            PagedStore(self.pool, GEOMETRY, BLOCK, keep_warm=warm)
            if layout == "paged"
            else ContiguousStore(self.pool, GEOMETRY, 64, 16, keep_warm=warm)
        )
        self.index = PrefixIndex(BLOCK)
        self.kept: KeptPrefixes[Any] = KeptPrefixes(self.store, self.index)
        self.ended = 0

    def end(self, text: list[int], computed: int | None = None, salt: bytes = b"") -> int:
        """A sequence of `text`, all or `computed` of it published, has ended; its number."""
        self.ended += 1
        match = self.index.match(self.ended, text, salt)
        holding = None
        if match is not None:
            parent = self.kept.get(match[0])
            assert parent is not None
            holding = self.store.fork(parent.holding, match[1])
        holding = holding or self.store.open()
        assert self.store.extend(holding, len(text))
        self.index.publish(self.ended, text, len(text) if computed is None else computed, salt)
        self.kept.add(self.ended, holding)
        self.check()
        return self.ended

    def known(self, text: list[int], salt: bytes = b"") -> int:
        """How many tokens of `text` are at hand."""
        match = self.index.match(-1, text, salt)
        self.index.forget(-1)
        return 0 if match is None else match[1]

    def check(self) -> None:
        """What the index says is there is there, and nothing else is."""
        self.store.check()
        self.pool.check()
        self.kept.check()
        numbers = [seq for seq in range(self.ended + 1) if self.kept.get(seq) is not None]
        assert len(numbers) == len(self.kept)
        for seq in range(self.ended + 1):
            kept = self.kept.get(seq)
            held = self.index.held(seq)
            if kept is None:
                assert held == 0
            else:
                assert kept.tokens == held == self.store.tokens(kept.holding) > 0
                assert held % BLOCK == 0


@LAYOUTS
def test_what_an_entry_in_memory_covers_is_not_kept_beside_it(layout: str) -> None:
    scene = Scene(layout)
    long = scene.end([1] * 12)
    other = scene.end([2] * 8)
    held = scene.pool.held("kv")
    for short in ([1] * 8, [1] * 12, [1] * 5):
        scene.end(short)
        assert (len(scene.kept), scene.pool.held("kv")) == (2, held)
        assert scene.known([1] * 12) == 12
    assert scene.kept.evict()
    assert scene.kept.get(other) is None, "the long one was of use after it"
    assert scene.kept.get(long) is not None
    scene.check()


@LAYOUTS
@WARM
def test_the_oldest_is_cut_first_and_from_its_end(layout: str, warm: bool) -> None:
    scene = Scene(layout, warm)
    texts = [[number, *range(39)] for number in range(3)]
    for text in texts:
        scene.end(text)
    free = scene.pool.free
    assert scene.kept.release(3) == 3
    scene.check()
    assert scene.pool.free == free + 3
    assert [scene.known(text) for text in texts] == [28, 40, 40]
    assert scene.kept.release(8) == 8
    assert [scene.known(text) for text in texts] == [0, 36, 40]
    assert scene.kept.release(100) == 19
    assert (len(scene.kept), scene.kept.release(1)) == (0, 0)
    scene.check()


@LAYOUTS
def test_a_full_memory_lacks_no_more_than_what_is_asked(layout: str) -> None:
    scene = Scene(layout, chunks=10)
    scene.end(list(range(40)))
    assert scene.pool.free == 0
    assert scene.store.missing(scene.store.open(), 8) == 2


@LAYOUTS
def test_what_ended_last_stays_longest_and_what_is_spared_stays(layout: str) -> None:
    scene = Scene(layout)
    first, second, third = (scene.end([number] * 12) for number in range(3))
    with scene.kept.sparing(first):
        assert scene.kept.evict()
        assert scene.kept.get(second) is None
        assert scene.kept.release(100) == 3
        assert scene.kept.get(third) is None
        assert not scene.kept.evict()
        assert scene.known([0] * 12) == 12
    assert scene.kept.evict()
    assert scene.kept.get(first) is None
    assert not scene.kept.evict()
    assert scene.known([0] * 12) == 0
    scene.check()


@LAYOUTS
@pytest.mark.parametrize(("common", "stays"), [(36, False), (32, True)])
def test_an_entry_goes_of_which_a_later_one_has_all_but_an_eighth(
    layout: str, common: int, stays: bool
) -> None:
    scene = Scene(layout)
    text = list(range(40))
    short = scene.end(text)
    scene.end([*text[:common], *[50] * 8])
    assert (scene.kept.get(short) is not None) == stays
    assert scene.known(text) == (40 if stays else common)


@LAYOUTS
def test_an_entry_that_a_longer_one_covers_goes(layout: str) -> None:
    scene = Scene(layout)
    text = list(range(40))
    short = scene.end(text[:17])
    other = scene.end([7, *text[:16]])
    long = scene.end(text)
    assert scene.kept.get(short) is None
    assert {seq for seq in (other, long) if scene.kept.get(seq)} == {other, long}
    assert (scene.known(text), scene.known(text[:17])) == (40, 16)
    again = scene.end([*text, *range(8)])
    assert scene.kept.get(long) is None
    assert scene.kept.get(again) is not None


@LAYOUTS
def test_only_whole_blocks_that_were_published_are_kept(layout: str) -> None:
    scene = Scene(layout)
    free = scene.pool.free
    scene.end(list(range(3)))
    assert (len(scene.kept), scene.pool.free) == (0, free)
    scene.end(list(range(30)), computed=14)
    assert scene.known(list(range(30))) == 12
    assert scene.pool.free == free - scene.store.chunks_alone(12)


@LAYOUTS
@WARM
def test_cutting_an_entry_leaves_those_who_share_it(layout: str, warm: bool) -> None:
    scene = Scene(layout, warm)
    text = list(range(24))
    scene.end(text)
    scene.end([*text[:16], *range(100, 112)])
    assert scene.kept.release(1) == 1
    assert (scene.known(text), scene.known([*text[:16], *range(100, 112)])) == (20, 28)
    assert scene.kept.release(2) == 2
    scene.check()
    assert scene.known(text) == 16, "the other one still has it"


def test_requests_with_different_salts_share_nothing() -> None:
    index = PrefixIndex(BLOCK)
    text = list(range(20))
    index.publish(1, text, 20, b"red")
    index.publish(2, text, 8, b"blue")
    index.publish(3, text, 4)
    asked = {salt: index.match(9 + i, text, salt) for i, salt in enumerate([b"red", b"blue", b""])}
    assert asked == {b"red": (1, 20), b"blue": (2, 8), b"": (3, 4)}
    assert index.match(20, text, b"green") is None
    assert list(index.covered(1)) == []
    index.forget(1)
    assert index.match(21, text, b"red") is None
    index.check()


def test_a_match_never_goes_past_a_block_that_differs() -> None:
    index = PrefixIndex(BLOCK)
    index.publish(1, [1, 2, 3, 4, 5, 6, 7, 8], 8)
    assert index.match(2, [1, 2, 3, 4, 5, 6, 7, 9]) == (1, 4)
    assert index.match(3, [1, 2, 3]) is None
    assert index.match(4, [9, 2, 3, 4, 5, 6, 7, 8]) is None
    index.shorten(1, 4)
    assert (index.held(1), index.match(5, [1, 2, 3, 4, 5, 6, 7, 8])) == (4, (1, 4))
    index.shorten(1, 6)
    assert index.held(1) == 4
    assert index.match(6, [1, 2, 3, 4], among=lambda seq: seq != 1) is None
    index.check()


@LAYOUTS
@settings(max_examples=40)
@given(data=st.data())
def test_whatever_is_given_up_the_index_and_memory_agree(layout: str, data: st.DataObject) -> None:
    scene = Scene(layout, data.draw(st.booleans()), data.draw(st.integers(30, 60)))
    words = st.lists(st.integers(0, 1), max_size=5)
    for _ in range(data.draw(st.integers(1, 10))):
        action = data.draw(st.sampled_from(["end", "end", "end", "release", "evict"]))
        if action == "end":
            text = [word for word in data.draw(words) for _ in range(BLOCK)] + [5]
            scene.end(text, data.draw(st.integers(0, len(text))))
        elif action == "release":
            count, free = data.draw(st.integers(1, 6)), scene.pool.free
            freed = scene.kept.release(count)
            assert scene.pool.free == free + freed
            assert freed >= count or not len(scene.kept)
        else:
            assert scene.kept.evict() or not len(scene.kept)
        scene.check()
    scene.kept.clear()
    scene.store.reclaim(scene.pool.total)
    assert scene.pool.free == scene.pool.total
