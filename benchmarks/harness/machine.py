"""Where and with what a figure was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def commit() -> str:
    """The checkout's commit, marked when tracked files differ from it."""
    asked = ["git", "describe", "--always", "--abbrev=12", "--dirty"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


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
        "transformers": version("transformers"),
    }


def peak_rss() -> int:
    """Most bytes of real memory this process held since it began, or since `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM in /proc/self/status")


def forget_peak() -> None:
    """Let `peak_rss` count from what the process holds now."""
    Path("/proc/self/clear_refs").write_text("5")


def busy_seconds() -> float:
    """CPU seconds that all processes and the hypervisor have taken from this machine since boot."""
    ticks = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _wait, irq, softirq, steal = ticks
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
