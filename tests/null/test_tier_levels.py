"""Host memory above the disk: what is used least goes down, what is read comes up again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tier_scene import BASE_PIECES, CHUNK, PIECE, SCENES, TOP_PIECES, Scene

from ellm.memory.block import Block, BlockState
from ellm.memory.stores.host import HostStore
from ellm.memory.transfer import TransferState


@pytest.fixture(params=[name for name in SCENES if "two levels" in name])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    made = SCENES[request.param](str(tmp_path))
    yield made
    made.tiers.check()
    made.close()


def put(scene: Scene, data: bytes) -> Block:
    block = scene.tiers.put(scene.write(0, data))
    assert block is not None
    scene.tiers.wait(block)
    return block


def fetch(scene: Scene, block: Block) -> bytes:
    target = scene.write(4 * CHUNK, b"\xee" * block.size)
    transfer = scene.tiers.get(block, target)
    scene.tiers.wait(transfer)
    assert transfer.state is TransferState.DONE, transfer.error
    return scene.read(target)


def on_disk(scene: Scene, block: Block) -> bool:
    return block.level is scene.tiers._base


def test_the_block_used_least_lately_makes_room(scene: Scene) -> None:
    blocks = [put(scene, b"%d" % i * 2 * PIECE) for i in range(3)]
    assert fetch(scene, blocks[0]) == b"0" * 2 * PIECE
    blocks.append(put(scene, b"3" * 2 * PIECE))
    scene.settle()
    assert [on_disk(scene, block) for block in blocks] == [False, True, False, False]
    assert (scene.tiers.stats.spills, scene.tiers.stats.spill_bytes) == (1, 2 * PIECE)
    for i, block in enumerate(blocks):
        assert fetch(scene, block) == b"%d" % i * 2 * PIECE


def test_what_is_read_from_disk_stays_in_memory_if_there_is_room(scene: Scene) -> None:
    blocks = [put(scene, b"%d" % i * 2 * PIECE) for i in range(4)]
    scene.settle()
    assert on_disk(scene, blocks[0])
    part = scene.write(4 * CHUNK, b"\xee" * 5)
    scene.tiers.wait(scene.tiers.get(blocks[0], part, PIECE))
    assert scene.read(part) == b"00000"
    assert on_disk(scene, blocks[0])
    assert fetch(scene, blocks[0]) == b"0" * 2 * PIECE
    assert blocks[0].level is not scene.tiers._base
    assert scene.tiers.stats.promotions == 1
    scene.settle()
    assert fetch(scene, blocks[0]) == b"0" * 2 * PIECE
    scene.tiers.drop(blocks[0])
    scene.settle()
    assert scene.tiers.used == 6 * PIECE


def test_a_block_too_large_for_memory_goes_to_disk(scene: Scene) -> None:
    block = put(scene, b"L" * (TOP_PIECES + 1) * PIECE)
    assert on_disk(scene, block)
    assert fetch(scene, block) == b"L" * (TOP_PIECES + 1) * PIECE
    assert scene.tiers.stats.promotions == 0


@pytest.mark.parametrize("name", [n for n in SCENES if "timed, two levels" in n])
def test_a_block_that_is_wanted_is_not_spilled(name: str, tmp_path: Path) -> None:
    scene = SCENES[name](str(tmp_path))
    blocks = [put(scene, b"%d" % i * 2 * PIECE) for i in range(4)]
    assert blocks[0].transfers, "its spill is under way"
    assert fetch(scene, blocks[0]) == b"0" * 2 * PIECE
    scene.settle()
    assert [on_disk(scene, block) for block in blocks] == [False, True, False, False]
    assert scene.tiers.stats.spills == 1
    scene.tiers.check()
    scene.close()


def test_a_failed_spill_loses_nothing(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.disk.arm("write")
    blocks = [put(scene, b"%d" % i * 2 * PIECE) for i in range(4)]
    scene.settle()
    assert scene.tiers.stats.spill_failures == 1
    assert caplog.text.count("writing to disk failed") == len(caplog.records) == 1
    for i, block in enumerate(blocks):
        assert block.state is BlockState.READY
        assert fetch(scene, block) == b"%d" % i * 2 * PIECE


def test_memory_is_taken_as_needed_and_given_back(scene: Scene) -> None:
    host = scene.host
    assert isinstance(host, HostStore)
    slab = 3 * PIECE
    assert host.backed == 0
    first = put(scene, b"1" * PIECE)
    assert host.backed == slab
    second = put(scene, b"2" * 3 * PIECE)
    assert host.backed == 2 * slab
    scene.tiers.drop(second)
    assert host.backed == 2 * slab
    scene.tiers.trim()
    assert host.backed == slab
    assert fetch(scene, first) == b"1" * PIECE
    scene.tiers.drop(first)
    scene.tiers.trim()
    assert host.backed == 0


def test_all_of_both_levels_can_be_used(scene: Scene) -> None:
    blocks: list[Block] = []
    while (
        block := scene.tiers.put(scene.write(0, b"%2d" % len(blocks) * (PIECE // 2)))
    ) is not None:
        scene.tiers.wait(block)
        scene.settle()
        blocks.append(block)
    assert len(blocks) == BASE_PIECES + TOP_PIECES
    for i, each in enumerate(blocks):
        assert fetch(scene, each) == b"%2d" % i * (PIECE // 2)
