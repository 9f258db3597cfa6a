"""Where and with what a figure was measured."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections import defaultdict
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def commit() -> str:
    """The checkout's commit, marked when tracked files differ from it."""
    asked = ["git", "describe", "--always", "--abbrev=12", "--dirty"]
    with suppress(OSError):  # no git
        done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() or "unknown"
    return "unknown"


def describe() -> dict[str, str | int]:
    """Processor, cores, memory and versions; nothing that names the host."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    fields = dict(line.split("\t", 1) for line in cpuinfo if "\t" in line)
    flags = fields.get("flags", "").split()
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return {
        "cpu": fields.get("model name", "").lstrip("\t: ") or platform.machine(),
        "features": " ".join(wide),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release().split("-")[0],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": _version("transformers"),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # not every benchmark needs it
        return ""


def family(root: int | None = None) -> list[int]:
    """The process `root`, this one by default, and every living one that descends from it."""
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended since
            children[int(_stat(stat)[1])].append(int(stat.parent.name))
    found = [root or os.getpid()]
    for process in found:  # grows meanwhile
        found += children[process]
    return found


def peak_rss(root: int | None = None) -> int:
    """Most bytes of real memory since the beginning, or since `forget_peak`, of a family.

    Each process counts with its own peak and with pages that it shares, so that the sum is an upper
    bound where there are several.
    """
    peak = 0
    for process in family(root):
        with suppress(OSError):
            status = Path(f"/proc/{process}/status").read_text()
            peak += sum(1024 * int(kib) for kib in re.findall(r"^VmHWM:\s+(\d+)", status, re.M))
    assert peak, "no VmHWM in /proc"
    return peak


def forget_peak(root: int | None = None) -> None:
    """Let `peak_rss` count from what the family holds now."""
    for process in family(root):
        with suppress(OSError):
            Path(f"/proc/{process}/clear_refs").write_text("5")


def cpu_seconds(root: int | None = None) -> float:
    """What a family has worked, with those of it that have ended; to a hundredth."""
    ticks = 0
    for process in family(root):
        with suppress(OSError):
            ticks += sum(map(int, _stat(Path(f"/proc/{process}/stat"))[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _stat(file: Path) -> list[str]:
    """The fields of /proc/PID/stat from the third, its state, on."""
    return file.read_text().rpartition(")")[2].split()


def busy_seconds() -> float:
    """CPU seconds that all processes and the hypervisor have taken from this machine since boot."""
    ticks = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _wait, irq, softirq, steal = ticks
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def gpu() -> dict[str, str | int]:
    """Versions that a device's figures depend on, and the first device, where there is one."""
    found: dict[str, str | int] = {}
    for package in ("triton", "cuda-bindings"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    with suppress(OSError, ValueError, IndexError):
        said = subprocess.run(asked, capture_output=True, text=True).stdout
        name, driver, memory = said.strip().splitlines()[0].split(", ")
        found |= {"gpu": name, "driver": driver, "gpu_memory": memory}
    return found
