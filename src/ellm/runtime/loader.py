"""From checkpoint files straight into the weights' address range.

Bytes go from the file into their final place when the dtype agrees, and through a small staging
block when it does not or when the device is not the host: there is never a second full copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import torch
from torch import Tensor

from ellm.core.errors import CheckpointError, ConfigError
from ellm.core.units import round_up
from ellm.kernels.ops import Ops
from ellm.models.parameters import Parameter, parameters
from ellm.models.spec import DecoderSpec
from ellm.models.weights import Weights, assemble
from ellm.runtime.checkpoint import Checkpoint
from ellm.runtime.safetensors_header import StoredTensor
from ellm.runtime.staging import BLOCK_BYTES, Staging
from ellm.runtime.views import view
from ellm.runtime.workspace import ALIGNMENT

Progress = Callable[[int, int], None]

_STORED: Mapping[str, torch.dtype] = MappingProxyType(
    {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
)
_NAMED: Mapping[str, torch.dtype] = MappingProxyType(
    {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    | {"float": torch.float32, "half": torch.float16}
)


def choose_dtype(name: str, spec: DecoderSpec, checkpoint: Checkpoint | None) -> torch.dtype:
    """The dtype called `name`; for "auto" the config's own, else that of the stored embedding."""
    if name == "auto":
        stored = checkpoint.tensors.get(f"{spec.names.embed}.weight") if checkpoint else None
        inferred = _STORED.get(stored.dtype) if stored else None
        own = _NAMED.get((spec.dtype or "").removeprefix("torch."))
        return own or inferred or torch.bfloat16
    try:
        return _NAMED[name]
    except KeyError:
        raise ConfigError(f"--dtype must be auto, {', '.join(_NAMED)}, not {name!r}") from None


def weight_bytes(spec: DecoderSpec, dtype: torch.dtype) -> int:
    """Exactly what `load` fills from its address: every parameter starts on 64 bytes."""
    return sum(_room(one, dtype) for one in parameters(spec))


def load(
    checkpoint: Checkpoint,
    spec: DecoderSpec,
    dtype: torch.dtype,
    address: int,
    ops: Ops,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Weights:
    """Fill `weight_bytes(spec, dtype)` mapped bytes at `address`, packed for `ops`.

    `progress` is called with bytes done and bytes in total, as stored, often enough for a bar.
    Raises CheckpointError before any byte is read when checkpoint and spec disagree.
    """
    wanted = parameters(spec)
    tied = (f"{spec.names.head}.weight",) if spec.tied else ()
    checkpoint.check(wanted, ignored=tied)
    tensors, jobs = lay_out(spec, dtype, address, device), []
    for one in wanted:
        target = tensors[one.name]
        for source in one.sources:
            stored = checkpoint.tensors[source.name]
            jobs.append((stored, target[source.row : source.row + source.shape[0]]))
    total = sum(stored.nbytes for stored, _ in jobs)
    done = 0
    for nbytes in _fill(jobs):
        done += nbytes
        if progress is not None:
            progress(done, total)
    weights = assemble(spec, tensors)
    for matrix in weights.matrices():
        ops.pack(matrix)
    return weights


def lay_out(
    spec: DecoderSpec, dtype: torch.dtype, address: int, device: torch.device | str
) -> dict[str, Tensor]:
    """Every parameter by its name, over `weight_bytes(spec, dtype)` bytes from `address`."""
    tensors = {}
    for one in parameters(spec):
        nbytes = one.numel * dtype.itemsize
        tensors[one.name] = view(address, nbytes, dtype, device).view(one.shape)
        address += _room(one, dtype)
    return tensors


def _room(one: Parameter, dtype: torch.dtype) -> int:
    return round_up(one.numel * dtype.itemsize, ALIGNMENT)


def _fill(jobs: list[tuple[StoredTensor, Tensor]]) -> Iterator[int]:
    """Do the jobs in file order, yielding the bytes read after each block."""
    jobs = sorted(jobs, key=lambda job: (job[0].path, job[0].offset))
    by_path: dict[Path, list[tuple[StoredTensor, Tensor]]] = {}
    for job in jobs:
        by_path.setdefault(job[0].path, []).append(job)
    if not jobs:
        return
    staging = Staging(jobs[0][1].device)
    for path, of_file in by_path.items():
        try:
            with path.open("rb", buffering=0) as file:
                for stored, target in of_file:
                    file.seek(stored.offset)
                    yield from _read(file, stored, target.view(-1), staging)
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from error


def _read(file: BinaryIO, stored: StoredTensor, target: Tensor, staging: Staging) -> Iterator[int]:
    dtype = _STORED[stored.dtype]
    direct = target.dtype == dtype and target.device.type == "cpu"
    step = BLOCK_BYTES // dtype.itemsize
    for begin in range(0, target.numel(), step):
        part = target[begin : begin + step]
        room = part if direct else staging.room(part.numel(), dtype)
        nbytes = part.numel() * dtype.itemsize
        _read_exactly(file, room.view(torch.uint8).numpy().data, stored)
        if not direct:
            staging.send(room, part)
        yield nbytes


def _read_exactly(file: BinaryIO, room: memoryview, stored: StoredTensor) -> None:
    filled = 0
    while filled < len(room):
        count = file.readinto(room[filled:])  # type: ignore[attr-defined]
        if not count:
            raise CheckpointError(f"{stored.path} ended inside {stored.name}: it was truncated")
        filled += count
