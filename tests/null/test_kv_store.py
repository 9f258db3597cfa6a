"""What every KV layout promises: each sequence reads back its own tokens, whatever is shared."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.core.layers import LayerSpec
from ellm.kv.contiguous import ContiguousStore
from ellm.kv.geometry import KvGeometry, choose_geometry
from ellm.kv.paged import PagedStore
from ellm.kv.pages import PageAllocator
from ellm.memory.drivers.null import NullDriver
from ellm.memory.pool import ChunkPool

LAYERS = 4
# Six bytes of keys a token: rows divide neither chunks nor pages.
SPEC = LayerSpec(kv_heads=1, head_dim=3, itemsize=2)
CHUNK = 64
MAX_TOKENS = 40


def store_of(layout: str, pool: ChunkPool, per_group: int, slots: int = 6) -> Any:
    geometry = KvGeometry(SPEC, LAYERS, per_group)
    if layout == "paged":
        return PagedStore(pool, geometry, block_size=4)
    return ContiguousStore(pool, geometry, MAX_TOKENS, slots)


def pool_of(chunks: int) -> ChunkPool:
    return ChunkPool(NullDriver(chunks * CHUNK, CHUNK), chunks * CHUNK)


def row_content(label: int, token: int, layer: int) -> bytes:
    """Twelve bytes that no other sequence, token or layer writes."""
    seed = f"{label}.{token}.{layer}".encode()
    return (zlib.crc32(seed).to_bytes(4, "little") * 3)[: SPEC.token_bytes]


def address(store: Any, holding: Any, layer: int, token: int) -> int:
    arena = store.arena
    row = store.table(holding).row(token)
    return int(arena.address + row * arena.row_bytes + arena.layer_offset(layer))


@dataclass
class Reader:
    """A holding, and whose tokens it must read back."""

    holding: Any
    labels: list[int]

    def verify(self, store: Any, pool: ChunkPool) -> None:
        for token, label in enumerate(self.labels):
            for layer in range(LAYERS):
                found = pool.driver.copy_out(
                    address(store, self.holding, layer, token), SPEC.token_bytes
                )
                assert found == row_content(label, token, layer), (token, layer)


def write(store: Any, pool: ChunkPool, reader: Reader, label: int, count: int) -> None:
    for token in range(len(reader.labels), len(reader.labels) + count):
        for layer in range(LAYERS):
            pool.driver.copy_in(
                address(store, reader.holding, layer, token), row_content(label, token, layer)
            )
        reader.labels.append(label)


@settings(max_examples=150)
@given(data=st.data())
@pytest.mark.parametrize("layout", ["contiguous", "paged"])
def test_every_sequence_reads_back_its_own_tokens(layout: str, data: st.DataObject) -> None:
    pool = pool_of(data.draw(st.integers(8, 60)))
    store = store_of(layout, pool, data.draw(st.sampled_from([1, 2, 4])))
    readers: list[Reader] = []
    for label in range(data.draw(st.integers(1, 14))):
        action = data.draw(st.sampled_from(["open", "extend", "fork", "close", "extend"]))
        if action == "open":
            holding = store.open()
            if holding is not None:
                readers.append(Reader(holding, []))
        elif readers:
            reader = data.draw(st.sampled_from(readers))
            if action == "extend":
                count = data.draw(st.integers(1, 9))
                end = min(MAX_TOKENS, len(reader.labels) + count)
                need = store.missing(reader.holding, end)
                free = pool.free
                granted = store.extend(reader.holding, end)
                assert granted == (need <= free)
                assert pool.free == free - (need if granted else 0)
                if granted:
                    write(store, pool, reader, label, end - len(reader.labels))
            elif action == "fork" and reader.labels:
                tokens = data.draw(st.integers(1, len(reader.labels)))
                need, free = store.missing_for_fork(reader.holding, tokens), pool.free
                child = store.fork(reader.holding, tokens)
                assert pool.free >= free - need
                if child is not None:
                    readers.append(Reader(child, reader.labels[:tokens]))
            elif action == "close":
                readers.remove(reader)
                store.close(reader.holding)
        store.check()
        pool.check()
        assert 0 <= store.wasted_bytes() <= pool.held("kv") * CHUNK
        for reader in readers:
            reader.verify(store, pool)
    for reader in readers:
        store.close(reader.holding)
    assert pool.free == pool.total
    store.check()


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
