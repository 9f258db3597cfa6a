"""What the machine has free, read from made-up machines, and how finely it is cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from ellm.core.errors import BudgetError
from ellm.core.units import GIB, KIB, MIB
from ellm.memory.budget import available_bytes, choose_chunk_bytes, default_budget, margin_bytes


class FakeMachine:
    """A /proc and a /sys under a folder of ours."""

    def __init__(self, root: Path, free: int, groups: str = "") -> None:
        self.root = root
        self.put("proc/meminfo", f"MemTotal: 99999999 kB\nMemAvailable: {free // KIB} kB\n")
        self.put("proc/self/cgroup", groups)

    def put(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(text))

    def group(self, path: str, limit: object, usage: int, cache: int = 0) -> None:
        """A group of version 2; the old names are put in by hand."""
        folder = f"sys/fs/cgroup/{path}".rstrip("/")
        self.put(f"{folder}/memory.max", f"{limit}\n")
        self.put(f"{folder}/memory.current", f"{usage}\n")
        self.put(f"{folder}/memory.stat", f"anon 5\ninactive_file {cache}\nactive_file 7\n")


def test_without_groups_the_kernel_says_what_is_free(tmp_path: Path) -> None:
    FakeMachine(tmp_path, 8 * GIB)
    assert available_bytes(tmp_path) == 8 * GIB
    (tmp_path / "proc/self/cgroup").unlink()
    assert available_bytes(tmp_path) == 8 * GIB


def test_the_tightest_group_above_the_process_counts(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, 8 * GIB, "0::/outer/inner\n")
    machine.group("", "max", 5)
    machine.group("outer", 4 * GIB, 3 * GIB)
    machine.group("outer/inner", 6 * GIB, 2 * GIB)
    assert available_bytes(tmp_path) == GIB
    machine.group("outer", "max", 3 * GIB)
    assert available_bytes(tmp_path) == 4 * GIB
    machine.group("outer/inner", 60 * GIB, 2 * GIB)
    assert available_bytes(tmp_path) == 8 * GIB


def test_page_cache_that_can_go_is_free(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, 8 * GIB, "0::/box\n")
    machine.group("box", 4 * GIB, 4 * GIB, cache=3 * GIB)
    assert available_bytes(tmp_path) == 3 * GIB
    machine.group("box", 4 * GIB, 5 * GIB)
    assert available_bytes(tmp_path) == 0


def test_old_groups_and_paths_that_a_container_does_not_see(tmp_path: Path) -> None:
    groups = "9:cpu,cpuacct:/box\n4:memory:/the/host/knows\n1:name=systemd:/\n0::/\n"
    machine = FakeMachine(tmp_path, 8 * GIB, groups)
    folder = "sys/fs/cgroup/memory"
    machine.put(f"{folder}/memory.limit_in_bytes", 3 * GIB)
    machine.put(f"{folder}/memory.usage_in_bytes", 2 * GIB)
    machine.put(f"{folder}/memory.stat", f"inactive_file 9\ntotal_inactive_file {GIB // 2}\n")
    assert available_bytes(tmp_path) == GIB + GIB // 2
    machine.put(f"{folder}/memory.limit_in_bytes", 2**63 - 4096)
    assert available_bytes(tmp_path) == 8 * GIB


def test_the_default_leaves_a_margin(tmp_path: Path) -> None:
    assert (margin_bytes(4 * GIB), margin_bytes(40 * GIB)) == (GIB, 4 * GIB)
    FakeMachine(tmp_path, 40 * GIB)
    assert default_budget(available_bytes(tmp_path)) == 36 * GIB
    FakeMachine(tmp_path, 3 * GIB)
    assert default_budget(available_bytes(tmp_path)) == 2 * GIB
    FakeMachine(tmp_path, GIB)
    with pytest.raises(BudgetError, match=r"1 GiB of memory are free.*--memory"):
        default_budget(available_bytes(tmp_path))


def test_this_machine_can_be_read() -> None:
    assert available_bytes() > 0
    assert choose_chunk_bytes(GIB) >= 64 * KIB


def test_chunks_are_as_small_as_the_mappings_allow() -> None:
    limit = 65530
    assert choose_chunk_bytes(0, limit) == 64 * KIB
    assert choose_chunk_bytes(2 * GIB - 4 * 64 * KIB, limit) == 64 * KIB
    assert choose_chunk_bytes(2 * GIB - 3 * 64 * KIB, limit) == 128 * KIB
    assert choose_chunk_bytes(20 * GIB, limit) == MIB
    assert choose_chunk_bytes(900 * GIB, limit) == 2 * MIB
    assert choose_chunk_bytes(20 * GIB, 4 * limit) == 256 * KIB
