"""Every op table that this machine can run, by name: each must do what the reference does."""

from __future__ import annotations

import torch

from ellm.kernels.cpu.library import DTYPES, library
from ellm.kernels.cpu.ops import NativeOps
from ellm.kernels.ops import Ops
from ellm.kernels.reference import ReferenceOps

_native = library()
NATIVE: dict[str, Ops] = {
    level: NativeOps(_native, level) for level in (_native.levels if _native else ())
}
BACKENDS: dict[str, Ops] = {"reference": ReferenceOps(), **NATIVE}


def computes(name: str, dtype: torch.dtype) -> bool:
    return name == "reference" or dtype in DTYPES
