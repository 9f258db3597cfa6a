"""A Llama whose weights are made on the device: no file has them.

Its directory has a config, a tokenizer and a checkpoint of the right size that is all hole: what
looks at headers finds them, and what would read the rest makes numbers instead.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ellm.kernels.ops import Ops
from ellm.llm import build as composition
from ellm.models.spec import DecoderSpec
from ellm.models.weights import Weights, assemble
from ellm.runtime.checkpoint import Checkpoint
from ellm.runtime.loader import lay_out
from harness.random_llama import RandomLlama, _write_tokenizer

LLAMA_8B = RandomLlama(
    name="llama-8b",
    hidden=4096,
    layers=32,
    heads=32,
    kv_heads=8,
    head_dim=128,
    mlp=14336,
    vocab=128_256,
    positions=16384,
    tied=False,
)


def describe_in(directory: Path, shape: RandomLlama) -> Path:
    """Write everything but the weights."""
    (directory / "config.json").write_text(json.dumps(shape._config()))
    _write_tokenizer(directory, 2048)
    header: dict[str, Any] = {}
    end = 0
    for name, rows, columns in shape._matrices():
        extents = [rows, columns] if columns else [rows]
        begin, end = end, end + 2 * rows * max(1, columns)
        header[name] = {"dtype": "BF16", "shape": extents, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return directory


def load(
    checkpoint: Checkpoint,
    spec: DecoderSpec,
    dtype: torch.dtype,
    address: int,
    ops: Ops,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Weights:
    """ellm.runtime.loader.load, with numbers of no meaning."""
    tensors = lay_out(spec, dtype, address, device)
    for tensor in tensors.values():
        if tensor.dim() == 1:
            tensor.fill_(1.0)
        else:
            tensor.normal_(0.0, 0.02)
    weights = assemble(spec, tensors)
    for matrix in weights.matrices():
        ops.pack(matrix)
    return weights


def install() -> None:
    """Have engines that are built from now on load so."""
    composition.load = load
