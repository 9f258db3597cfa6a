"""`ellm collect-env`: what a bug report needs to know about the machine."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = (
    "ellm", "torch", "numpy", "safetensors", "tokenizers", "huggingface-hub", "transformers",
    "fastapi", "uvicorn", "cuda-bindings", "triton",
)  # fmt: skip
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")


def collect_env() -> int:
    """Print versions, CPU features, memory limits and devices."""
    for name, value in facts():
        print(f"{name:<24}{value}")
    return 0


def facts() -> Iterator[tuple[str, str]]:
    """Name and value of everything worth reporting; nothing here names the user or the host."""
    from ellm.core.units import format_bytes
    from ellm.memory.budget import available_bytes, choose_chunk_bytes, default_budget

    yield "python", platform.python_version()
    yield "platform", platform.platform()
    for package in _PACKAGES:
        yield package, _version(package)
    yield "cpu", _cpu_model()
    yield "cpu features", " ".join(f for f in _FEATURES if f in _cpu_flags()) or "none of note"
    yield "cores usable", str(len(os.sched_getaffinity(0)))
    yield "memory available", format_bytes(available_bytes())
    yield "default budget", format_bytes(default_budget(available_bytes()))
    yield "vm.max_map_count", Path("/proc/sys/vm/max_map_count").read_text().strip()
    yield "chunk size, at most", format_bytes(choose_chunk_bytes(default_budget(available_bytes())))
    yield "cuda driver", cuda_driver()
    yield "kernels", _kernels()
    yield "gpu", _gpu()


def cuda_driver() -> str:
    """The CUDA driver's version and device count, or why there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "not installed"
    if status := driver.cuInit(0):
        return f"installed, but cuInit fails with status {status}"
    number, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(number))
    driver.cuDeviceGetCount(ctypes.byref(count))
    return f"CUDA {number.value // 1000}.{number.value % 1000 // 10}, {count.value} device(s)"


def _kernels() -> str:
    from ellm.kernels.cpu.library import library

    native = library()
    if native is None:
        return "PyTorch's: the package was built without a C++ compiler"
    best, *others = native.levels
    return f"native {best} (this machine could also run {', '.join(others)})" if others else best


def _gpu() -> str:
    import torch

    from ellm.core.units import format_bytes
    from ellm.llm.build import choose_ops

    if not torch.cuda.is_available():
        return f"none that PyTorch {torch.__version__} can use"
    found = torch.cuda.get_device_properties(0)
    memory, chip = format_bytes(found.total_memory), f"sm_{found.major}{found.minor}"
    kernels = choose_ops("cuda", torch.bfloat16, 128).name
    return f"{found.name} ({chip}, {memory}), kernels of {kernels}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpuinfo(field: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def _cpu_model() -> str:
    return _cpuinfo("model name") or platform.machine()


def _cpu_flags() -> set[str]:
    return set(_cpuinfo("flags").split())
