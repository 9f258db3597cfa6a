"""Every Triton kernel, compiled for real GPUs on a machine without one.

The launch sites run as they are, over ordinary memory: what they hand to Triton decides how a
kernel is compiled, and a launch ends there.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from compiled_ops import SHAPES, Shape, tour
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction
from triton.runtime.driver import driver

from ellm.kernels import cuda

ARCHITECTURES = (80, 90, 100)
# What a block may have on consumer cards of compute capability 8.6, 8.9 and 12.0: CUDA C++
# Programming Guide, table "Technical Specifications per Compute Capability".
MOST_SHARED = 99 << 10
# Bytes of arrays, which are no spills: sines of large angles take one for the digits of 2 / pi
# (CUDA C++ Programming Guide, "Trigonometric functions").
STACK = {"_angles": 32}
# Kernels that read the most, and how many of their reads are of 16 bytes at the least.
WIDE = {"_attend": 16, "_one": 4, "_few": 4, "_peaks": 1, "tally": 1, "_sums": 1}
# Reads of a bias, of which there are few.
NARROW = {"_few": 2}
LOGITS = ("_peaks", "tally", "_sums")
_SIXTEEN = re.compile(r"cp\.async\.c[ag]\S* .*, 0x10\b|ld\.global\S*\.v4\.[bfus]32 ")
_TWO = re.compile(r"ld\.global\S*\.[bfus]16 ")


@dataclass(frozen=True, slots=True)
class Kernel:
    """`even` says that all that it reads begins at multiples of 16 bytes."""

    name: str
    architecture: int
    even: bool
    shared: int
    ptx: str
    cubin: bytes


class Nowhere:
    """Triton's driver of a GPU that is not there."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return self.architecture

    def get_current_stream(self, device: int) -> int:
        return 0


def caught(shape: Shape, architecture: int) -> list[Kernel]:
    """What the launch sites have compiled for a model's shape."""
    found: dict[str, Kernel] = {}
    usual: Callable[..., Any] = JITFunction.run

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel = usual(self, *args, grid=grid, warmup=True, **options)
        found[kernel.hash] = Kernel(
            self.fn.__name__,
            architecture,
            self.fn.__name__ not in LOGITS or shape.vocab % 16 == 0,
            kernel.metadata.shared,
            kernel.asm["ptx"],
            kernel.asm["cubin"],
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "_active", Nowhere(architecture))
        patch.setattr(JITFunction, "run", run)
        tour(shape)
    return list(found.values())


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: shape.name)
def kernels(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Kernel]]:
    """For every architecture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        # Triton 3.9 warns where it is not set; what it says is what Triton 3.6 does.
        patch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
        yield [one for number in ARCHITECTURES for one in caught(request.param, number)]


def resources(kernel: Kernel, directory: Path) -> dict[str, int]:
    """What cuobjdump says of it: registers, bytes of stack and of local memory."""
    file = directory / "kernel.cubin"
    file.write_bytes(kernel.cubin)
    tool = knobs.nvidia.cuobjdump.path
    told = subprocess.run(
        [tool, "--dump-resource-usage", str(file)], capture_output=True, text=True, check=True
    ).stdout
    found = {name: int(number) for name, number in re.findall(r"([A-Z]+):(\d+)", told)}
    assert {"REG", "STACK", "LOCAL"} <= found.keys(), told
    return found


def test_all_are_compiled(kernels: list[Kernel]) -> None:
    names = {kernel.name for kernel in kernels}
    for architecture in ARCHITECTURES:
        assert {one.name for one in kernels if one.architecture == architecture} == names
    assert names == defined()


def defined() -> set[str]:
    """Kernels of the package that are launched: those that return nothing."""
    found = set()
    for module in pkgutil.iter_modules(cuda.__path__):
        for name, value in vars(importlib.import_module(f"{cuda.__name__}.{module.name}")).items():
            if isinstance(value, JITFunction) and value.fn.__annotations__["return"] == "None":
                found.add(name)
    return found


def test_no_register_is_spilled(kernels: list[Kernel], tmp_path: Path) -> None:
    for kernel in kernels:
        used = resources(kernel, tmp_path)
        told = kernel.name, kernel.architecture, used
        assert used["LOCAL"] == 0, told
        assert used["STACK"] <= STACK.get(kernel.name, 0), told


def test_shared_memory_is_enough_on_smaller_cards(kernels: list[Kernel]) -> None:
    for kernel in kernels:
        assert kernel.shared <= MOST_SHARED, (kernel.name, kernel.architecture, kernel.shared)


@pytest.mark.parametrize("name", WIDE)
def test_wide_reads_are_of_sixteen_bytes(kernels: list[Kernel], name: str) -> None:
    """Where an alignment is not known any more, a kernel reads two bytes at a time."""
    for kernel in (kernel for kernel in kernels if kernel.name == name and kernel.even):
        told = kernel.name, kernel.architecture
        assert len(_SIXTEEN.findall(kernel.ptx)) >= WIDE[name], told
        assert len(_TWO.findall(kernel.ptx)) <= NARROW.get(name, 0), told
