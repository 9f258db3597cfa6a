"""What every KV layout promises: each sequence reads back its own tokens, whatever is shared."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from faulty import FaultyDriver
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.core.layers import LayerSpec
from ellm.kv.contiguous import MOST_ADDRESSES, MOST_ROWS, ContiguousStore
from ellm.kv.geometry import KvGeometry, choose_geometry, most_pinned
from ellm.kv.paged import PagedStore
from ellm.kv.pages import PageAllocator
from ellm.memory.drivers.null import NullDriver
from ellm.memory.pool import ChunkPool
from ellm.memory.unmapping import DeferredUnmaps

LAYERS = 4
# Six bytes of keys a token: rows divide neither chunks nor pages.
SPEC = LayerSpec(kv_heads=1, head_dim=3, itemsize=2)
CHUNK = 64
BLOCK = 4
MAX_TOKENS = 40


def store_of(
    layout: str, pool: ChunkPool, per_group: int, slots: int = 6, keep_warm: bool = False
) -> Any:
    geometry = KvGeometry(SPEC, LAYERS, per_group)
    if layout == "paged":
        return PagedStore(pool, geometry, BLOCK, keep_warm=keep_warm)
    return ContiguousStore(pool, geometry, MAX_TOKENS, slots, keep_warm=keep_warm)


def pool_of(chunks: int, deferred: bool = False) -> ChunkPool:
    driver = FaultyDriver(NullDriver(chunks * CHUNK, CHUNK))
    return ChunkPool(driver, chunks * CHUNK, DeferredUnmaps(driver, at_once=not deferred))


def row_content(label: int, token: int, layer: int) -> bytes:
    """Twelve bytes that no other sequence, token or layer writes."""
    seed = f"{label}.{token}.{layer}".encode()
    return (zlib.crc32(seed).to_bytes(4, "little") * 3)[: SPEC.token_bytes]


def address(store: Any, holding: Any, layer: int, token: int) -> int:
    arena = store.arena
    row = store.table(holding).row(token)
    return int(arena.address + row * arena.row_bytes + arena.layer_offset(layer))


def read(pool: ChunkPool, extents: list[tuple[int, int]]) -> bytes:
    return b"".join(pool.driver.copy_out(start, size) for start, size in extents)


@dataclass
class Reader:
    """A holding, and whose tokens it must read back.  One that was cut is never extended again."""

    holding: Any
    labels: list[int]
    cut: bool = False

    def verify(self, store: Any, pool: ChunkPool) -> None:
        for token, label in enumerate(self.labels):
            for layer in range(LAYERS):
                found = pool.driver.copy_out(
                    address(store, self.holding, layer, token), SPEC.token_bytes
                )
                assert found == row_content(label, token, layer), (token, layer)

    def rows(self, store: Any, tokens: int) -> bytes:
        """The first `tokens` tokens as they are copied: page by page if there are pages, then by
        group, token and layer."""
        per_group = store.arena.layers_per_group
        page = BLOCK if isinstance(store, PagedStore) else MAX_TOKENS
        return b"".join(
            row_content(self.labels[token], token, layer)
            for first in range(0, tokens, page)
            for start in range(0, LAYERS, per_group)
            for token in range(first, min(tokens, first + page))
            for layer in range(start, start + per_group)
        )


def write(store: Any, pool: ChunkPool, reader: Reader, label: int, count: int) -> None:
    for token in range(len(reader.labels), len(reader.labels) + count):
        for layer in range(LAYERS):
            pool.driver.copy_in(
                address(store, reader.holding, layer, token), row_content(label, token, layer)
            )
        reader.labels.append(label)


class Stack:
    """A store, its pool and whoever reads from it; one method for each thing that can happen."""

    def __init__(self, layout: str, data: st.DataObject) -> None:
        self.draw = data.draw
        warm, deferred = self.draw(st.booleans()), self.draw(st.booleans())
        self.pool = pool_of(self.draw(st.integers(8, 60)), deferred)
        per_group = self.draw(st.sampled_from([1, 2, 4]))
        self.store = store_of(layout, self.pool, per_group, keep_warm=warm)
        self.readers: list[Reader] = []

    def open(self, label: int) -> None:
        holding = self.store.open(self.draw(st.integers(0, MAX_TOKENS)))
        if holding is not None:
            assert self.store.tokens(holding) == 0
            self.readers.append(Reader(holding, []))

    def extend(self, reader: Reader, label: int) -> None:
        if reader.cut:
            return
        store, pool = self.store, self.pool
        end = min(MAX_TOKENS, len(reader.labels) + self.draw(st.integers(1, 9)))
        need, free, warm = store.missing(reader.holding, end), pool.free, store.warm
        granted = store.extend(reader.holding, end)
        assert granted == (need <= free)
        if granted:
            assert pool.free == free - need
            write(store, pool, reader, label, end - len(reader.labels))
        else:
            assert pool.free + store.warm == free + warm

    def premap(self, reader: Reader, label: int) -> None:
        store, end = self.store, min(MAX_TOKENS, len(reader.labels) + 9)
        need, free = store.missing(reader.holding, end), self.pool.free
        if store.premap(reader.holding, end):
            assert self.pool.free == free - need
            assert store.room(reader.holding) >= end
            assert store.missing(reader.holding, end) == 0
        assert store.tokens(reader.holding) == len(reader.labels)

    def trim(self, reader: Reader, label: int) -> None:
        tokens = self.draw(st.sampled_from([len(reader.labels), MAX_TOKENS, 0, 5]))
        free = self.pool.free
        assert self.store.trim(reader.holding, tokens) == self.pool.free - free
        reader.cut |= tokens < len(reader.labels)
        del reader.labels[tokens:]
        left = len(reader.labels)
        assert self.store.tokens(reader.holding) == left
        assert self.store.chunks_alone(self.store.room(reader.holding)) == (
            self.store.chunks_alone(left)
        )

    def fork(self, reader: Reader, label: int) -> None:
        if not reader.labels:
            return
        store, tokens = self.store, self.draw(st.integers(1, len(reader.labels)))
        need, free = store.missing_for_fork(reader.holding, tokens), self.pool.free
        child = store.fork(reader.holding, tokens)
        assert self.pool.free >= free - need
        if child is not None:
            self.readers.append(Reader(child, reader.labels[:tokens]))

    def close(self, reader: Reader, label: int) -> None:
        self.readers.remove(reader)
        self.store.close(reader.holding)

    def reclaim(self, label: int) -> None:
        count, warm, free = self.draw(st.integers(0, 9)), self.store.warm, self.pool.free
        freed = self.store.reclaim(count)
        assert freed >= min(count, warm)
        assert (self.store.warm, self.pool.free) == (warm - freed, free + freed)

    def check(self) -> None:
        self.store.check()
        self.pool.check()
        held = self.pool.held("kv")
        assert 0 <= self.store.warm <= held
        if not any(reader.cut for reader in self.readers):
            assert 0 <= self.store.wasted_bytes() <= (held - self.store.warm) * CHUNK
        for reader in self.readers:
            reader.verify(self.store, self.pool)


@settings(max_examples=40)
@given(data=st.data())
@pytest.mark.parametrize("layout", ["contiguous", "paged"])
def test_every_sequence_reads_back_its_own_tokens(layout: str, data: st.DataObject) -> None:
    stack = Stack(layout, data)
    of_one = ["extend", "extend", "extend", "premap", "trim", "fork", "close"]
    for label in range(data.draw(st.integers(1, 16))):
        action = data.draw(st.sampled_from(["open", "reclaim", *of_one]))
        if action in of_one and stack.readers:
            getattr(stack, action)(data.draw(st.sampled_from(stack.readers)), label)
        elif action not in of_one:
            getattr(stack, action)(label)
        stack.check()
    for reader in stack.readers:
        tokens = len(reader.labels)
        copied = read(stack.pool, stack.store.extents(reader.holding, tokens))
        assert copied == reader.rows(stack.store, tokens)
        for part in {tokens, tokens // 2 // BLOCK * BLOCK}:
            for offset, extents in stack.store.pieces(reader.holding, part, tokens):
                piece = read(stack.pool, extents)
                assert piece == copied[offset : offset + len(piece)]
    for reader in stack.readers:
        stack.store.close(reader.holding)
    stack.store.reclaim(stack.pool.total)
    assert stack.pool.free == stack.pool.total
    stack.store.check()


@pytest.mark.parametrize("layout", ["contiguous", "paged"])
def test_a_shared_prefix_costs_less_than_two(layout: str) -> None:
    pool = pool_of(200)
    store = store_of(layout, pool, 1)
    parent = store.open()
    assert store.extend(parent, 36)
    alone = pool.held("kv")
    child = store.fork(parent, 35)
    assert child is not None
    assert pool.held("kv") - alone <= LAYERS
    store.close(parent)
    assert pool.held("kv") >= alone - LAYERS
    store.close(child)
    assert pool.free == pool.total


def test_fork_when_memory_is_short_changes_nothing() -> None:
    pool = pool_of(4)
    store = store_of("contiguous", pool, 1)
    parent = store.open()
    assert store.extend(parent, 5)
    assert pool.free == 0
    assert store.fork(parent, 3) is None
    store.check()
    store.close(parent)
    assert pool.free == 4


def test_nearly_empty_chunks_fill_up_before_new_ones_are_taken() -> None:
    pool = pool_of(64)
    pages = PageAllocator(pool, page_bytes=24, pages=100, owner="kv")
    first = pages.take(40)
    assert first is not None
    pages.drop([p for p in first if p % 5])
    held = pool.held("kv")
    again = pages.take(8)
    assert again is not None
    assert pool.held("kv") == held, "free pages on mapped chunks were at hand"
    pages.check()


@pytest.mark.parametrize(
    ("chunk", "groups"), [(64 << 10, 12), (256 << 10, 4), (512 << 10, 2), (2 << 20, 1)]
)
def test_a_short_sequence_pins_at_most_a_mebibyte_or_one_chunk(chunk: int, groups: int) -> None:
    geometry = choose_geometry([LayerSpec(4, 64, 2)] * 12, chunk)
    assert geometry.groups == groups
    assert geometry.contiguous_chunks(1, chunk) * chunk <= max(chunk, 1 << 20)


@pytest.mark.parametrize(
    ("layers", "groups"),
    [
        ([LayerSpec(32, 128, 2)] * 32, 16),  # Llama-2-7B on one device
        ([LayerSpec(8, 128, 2)] * 32, 4),  # Llama-3-8B
        ([LayerSpec(2, 128, 2)] * 80, 2),  # a quarter of Llama-3.1-70B
    ],
)
def test_layers_that_come_and_go_are_in_groups_on_the_chunks_of_a_gpu(
    layers: list[LayerSpec], groups: int
) -> None:
    chunk, token_bytes = 2 << 20, sum(layer.token_bytes for layer in layers)
    assert choose_geometry(layers, chunk, most_pinned(token_bytes, layered=False)).groups == 1
    geometry = choose_geometry(layers, chunk, most_pinned(token_bytes, layered=True))
    assert geometry.groups == groups
    assert geometry.contiguous_chunks(1, chunk) * chunk <= 64 * token_bytes


def test_the_next_sequence_gets_the_smallest_warm_range_that_is_long_enough() -> None:
    pool = pool_of(200)
    store = store_of("contiguous", pool, LAYERS, slots=4, keep_warm=True)
    holdings = [store.open() for _ in range(3)]
    for holding, tokens in zip(holdings, (30, 6, 15), strict=True):
        assert store.extend(holding, tokens)
    rooms = [store.room(holding) for holding in holdings]
    for holding in holdings:
        store.close(holding)
    held = pool.held("kv")
    assert store.warm == held
    for tokens, room in ((10, rooms[2]), (20, rooms[0]), (3, rooms[1])):
        holding = store.open(tokens)
        assert (store.room(holding), store.tokens(holding)) == (room, 0)
        assert store.missing(holding, tokens) == 0
        store.close(holding)
    longest = store.open(MAX_TOKENS)
    assert store.room(longest) == rooms[0]
    assert store.missing(longest, MAX_TOKENS) == store.chunks_alone(MAX_TOKENS) - (
        store.chunks_alone(rooms[0])
    )
    assert store.room(store.open()) == 0, "a cold range is left for who asks for nothing"
    assert pool.held("kv") == held


def test_the_longest_unused_warm_range_is_given_back_first() -> None:
    pool = pool_of(200)
    store = store_of("contiguous", pool, LAYERS, keep_warm=True)
    holdings = [store.open() for _ in range(3)]
    for holding, tokens in zip(holdings, (9, 30, 20), strict=True):
        assert store.extend(holding, tokens)
    rooms = [store.room(holding) for holding in holdings]
    for index in (1, 0, 2):
        store.close(holdings[index])
    assert store.reclaim(1) == store.chunks_alone(rooms[1])
    assert store.reclaim(1) == store.chunks_alone(rooms[0])
    assert store.room(store.open(1)) == rooms[2]


@pytest.mark.parametrize("layout", ["contiguous", "paged"])
def test_what_someone_else_still_reads_is_not_warm(layout: str) -> None:
    pool = pool_of(100)
    store = store_of(layout, pool, 1, keep_warm=True)
    parent = Reader(store.open(), [])
    assert store.extend(parent.holding, 24)
    write(store, pool, parent, 0, 24)
    child = Reader(store.fork(parent.holding, 24), list(parent.labels))
    store.close(parent.holding)
    others = []
    for label in (1, 2):
        other = Reader(store.open(24), [])
        assert store.extend(other.holding, 24)
        write(store, pool, other, label, 24)
        others.append(other)
    for reader in (child, *others):
        reader.verify(store, pool)
        store.close(reader.holding)
    assert store.warm == pool.held("kv") > 0
    store.check()


ATTEMPTS: dict[str, Callable[[Any, Any], object]] = {
    "close": lambda store, holding: store.close(holding),
    "trim": lambda store, holding: store.trim(holding, 3),
    "reclaim": lambda store, holding: store.reclaim(60),
    "extend": lambda store, holding: store.extend(holding, 33),
    "premap": lambda store, holding: store.premap(holding, 33),
    "fork": lambda store, holding: store.fork(holding, 18) is not None,
}


@pytest.mark.parametrize("kind", ["create", "map", "unmap", "copy"])
@pytest.mark.parametrize("act", ATTEMPTS)
@pytest.mark.parametrize("layout", ["contiguous", "paged"])
def test_a_driver_that_refuses_costs_nothing_but_time(layout: str, act: str, kind: str) -> None:
    """With unmapping put off.  At each call in turn: whatever is refused can be had afterwards."""
    refused, at = True, 0
    while refused:
        at += 1
        pool = pool_of(60, deferred=True)
        store = store_of(layout, pool, 1, slots=3, keep_warm=act == "reclaim")
        reader, other, third = (Reader(store.open(), []) for _ in range(3))
        for made in (reader, other, third):
            assert store.extend(made.holding, 19)
            write(store, pool, made, 0, 19)
        store.close(third.holding)
        pool.driver.arm(kind, at)  # type: ignore[attr-defined]
        done = ATTEMPTS[act](store, other.holding)
        refused = not pool.driver.armed  # type: ignore[attr-defined]
        assert done is not False or refused
        store.check()
        pool.check()
        reader.verify(store, pool)
        if done is False:
            other.verify(store, pool)
            assert ATTEMPTS[act](store, other.holding)
    assert at > 1 or (act, kind) not in {("extend", "map"), ("fork", "copy"), ("fork", "unmap")}


@pytest.mark.parametrize("layout", ["contiguous", "paged"])
def test_what_is_not_available_is_not_asked_of_the_machine(layout: str) -> None:
    pool = pool_of(60)
    pool.ledger.limit("kv", ceiling=4)
    store = store_of(layout, pool, per_group=1)
    holding = store.open()
    pool.driver.arm("create", 1000)  # type: ignore[attr-defined]
    assert not store.extend(holding, MAX_TOKENS)
    assert pool.driver.left == 1000  # type: ignore[attr-defined]
    assert (pool.held("kv"), store.room(holding)) == (0, 0)
    store.check()


@pytest.mark.parametrize(
    ("width", "slots"),
    [(1, 4096), (64, 1024)],
    ids=["rows end first", "addresses end first"],
)
def test_there_are_as_many_slots_as_rows_and_addresses_allow(width: int, slots: int) -> None:
    """A context of half a million tokens in two groups, for four thousand and more sequences."""
    layer = LayerSpec(kv_heads=width, head_dim=128, itemsize=2)
    pool = ChunkPool(NullDriver(2**30, 2**21), 2**30)
    store = ContiguousStore(pool, KvGeometry(layer, 2, 1), 2**18, 2 * slots)
    slot_rows = 2 * 2**18
    assert store.arena.rows <= MOST_ROWS
    assert store.span.slots * 2**21 <= MOST_ADDRESSES
    assert store.arena.rows // slot_rows in (slots, slots - 1)
    held = [store.open(1) for _ in range(2 * slots)]
    assert held.count(None) == 2 * slots - store.arena.rows // slot_rows
