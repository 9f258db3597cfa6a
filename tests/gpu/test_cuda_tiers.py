"""Device memory to pinned host memory to disk and back, on a real device."""

from __future__ import annotations

import os
from pathlib import Path

from ellm.core.units import MIB
from ellm.memory.block import BlockState


def test_bytes_survive_both_levels(tmp_path: Path) -> None:
    from ellm.memory.drivers.cuda import CudaDriver
    from ellm.memory.drivers.cuda_access import CudaAccess
    from ellm.memory.stores.file import FileStore
    from ellm.memory.stores.host import HostStore
    from ellm.memory.thread_copier import ThreadCopier
    from ellm.memory.tiers import Tiers

    driver, access = CudaDriver(), CudaAccess()
    size = driver.chunk_bytes
    span = driver.reserve(5)
    driver.map(span, 0, driver.create(5))
    top = HostStore(2 * size, access, slab_bytes=MIB)
    base = FileStore(16 * size, access, str(tmp_path))
    tiers = Tiers(base, access, ThreadCopier(), top)
    blocks, texts = [], []
    for index in range(4):
        texts.append(os.urandom(1000) * (size // 1000))
        driver.copy_in(span.address + index * size + 7, texts[-1])
        block = tiers.put([(span.address + index * size + 7, len(texts[-1]))])
        assert block is not None
        tiers.wait(block)
        assert block.state is BlockState.READY
        blocks.append(block)
    for block, text in zip(blocks, texts, strict=True):
        extents = [(span.address + 3, 11), (span.address + size, len(text) - 11)]
        tiers.wait(tiers.get(block, extents))
        assert b"".join(driver.copy_out(*extent) for extent in extents) == text
    assert tiers.stats.loads == 4
    assert any(block.level is tiers._base for block in blocks)
    tiers.check()
    tiers.close()
    driver.close()
