"""The header of one safetensors file, believed only as far as it can be checked.

file   │ 8 bytes: n │ n bytes of JSON: name → dtype, shape, [begin, end) │ data ·····│
                                                          └ counted from here
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ellm.core.errors import CheckpointError

ITEM_BYTES: Mapping[str, int] = MappingProxyType(
    {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1}
    | {"BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
)
_MOST_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor's bytes are: `nbytes` from `offset` of the file, rows in order."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of the file.

    Raises CheckpointError naming the file (and the tensor) when the header cannot be read,
    contradicts itself, or promises more or fewer bytes than the file has.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(size - 8, _MOST_HEADER_BYTES):
                raise _broken(path, f"its header claims {length} bytes of a file of {size}")
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise _broken(path, f"its header is not JSON ({error})") from error
    if not isinstance(entries, dict):
        raise _broken(path, "its header is not a JSON object")
    entries.pop("__metadata__", None)
    base = 8 + length
    found = {name: _entry(path, name, entry, base) for name, entry in entries.items()}
    expected = base + sum(tensor.nbytes for tensor in found.values())
    if size != expected:
        word = "truncated" if size < expected else "longer than its header says"
        raise _broken(path, f"it is {word}: {size} bytes, expected {expected}")
    return found


def _entry(path: Path, name: str, entry: Any, base: int) -> StoredTensor:
    try:
        dtype, shape = str(entry["dtype"]), tuple(int(extent) for extent in entry["shape"])
        begin, end = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(path, f"the header entry of {name} is malformed: {entry!r}") from error
    if dtype not in ITEM_BYTES:
        raise _broken(path, f"{name} has the unknown dtype {dtype}")
    nbytes = prod(shape) * ITEM_BYTES[dtype]
    if min(shape, default=0) < 0 or begin < 0 or end - begin != nbytes:
        raise _broken(
            path, f"{name} {dtype}{list(shape)} needs {nbytes} bytes, its entry gives {end - begin}"
        )
    return StoredTensor(name, path, dtype, shape, base + begin, nbytes)


def _broken(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is corrupt: {reason}; download or copy the file again")
