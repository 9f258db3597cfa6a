"""Weights that no file has: random numbers, the same on every device.

A number follows from the seed, the name of its parameter and its place in it, by whole-number
arithmetic alone, so that a model is made in pieces of any size, on a GPU at the speed of its
memory, and a CPU computes the same model.

    place ─ ⊕ first key ─ hash, ⊕ second key between its halves ─ sum of four bytes ─ times a scale

The hash is lowbias32 (https://github.com/skeeto/hash-prospector, public domain); a sum of four
bytes is nearly normal (within 3.4 standard deviations).
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

import torch
from torch import Tensor

from ellm.kernels.ops import Ops
from ellm.models.parameters import Parameter, parameters
from ellm.models.spec import DecoderSpec
from ellm.models.weights import Weights, assemble
from ellm.runtime.loader import lay_out

Progress = Callable[[int, int], None]

# Numbers made at a time: what a core's cache holds; what hides a GPU's launches.
_CPU_BLOCK, _GPU_BLOCK = 1 << 15, 1 << 22
_BIAS_DEVIATION = 0.02
# Of the sum of four bytes: their mean, and √(4 · (256² - 1) / 12).
_MEAN, _DEVIATION = 510.0, 147.8


def make_weights(
    spec: DecoderSpec,
    dtype: torch.dtype,
    address: int,
    ops: Ops,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    seed: int = 0,
) -> Weights:
    """Fill `weight_bytes(spec, dtype)` mapped bytes at `address`, packed for `ops`.

    Matrices get a standard deviation of 1/√inputs, so that numbers stay as large from layer to
    layer, biases one of 0.02; norms are ones, and theirs zeros.  `progress` is called with bytes
    done and in total.
    """
    tensors = lay_out(spec, dtype, address, device)
    wanted = parameters(spec)
    total = sum(one.numel for one in wanted) * dtype.itemsize
    done = 0
    noise = _Noise(device)
    for one in wanted:
        _fill(tensors[one.name], one, noise, seed)
        done += one.numel * dtype.itemsize
        if progress is not None:
            progress(done, total)
    weights = assemble(spec, tensors)
    for matrix in weights.matrices():
        ops.pack(matrix)
    return weights


def _fill(target: Tensor, one: Parameter, noise: _Noise, seed: int) -> None:
    if "norm." in one.name:
        target.fill_(float(one.name.endswith("weight")))
        return
    matrix = len(one.shape) == 2
    deviation = one.shape[1] ** -0.5 if matrix else _BIAS_DEVIATION
    noise.write(target.view(-1), f"{seed} {one.name}", deviation)


class _Noise:
    """Writes random numbers, a block at a time, with its scratch kept."""

    def __init__(self, device: torch.device | str) -> None:
        block = _CPU_BLOCK if torch.device(device).type == "cpu" else _GPU_BLOCK
        self._places = torch.arange(block, dtype=torch.int32, device=device)
        self._bits = torch.empty_like(self._places)
        self._beside = torch.empty_like(self._places)
        self._numbers = torch.empty(block, dtype=torch.float32, device=device)

    def write(self, target: Tensor, name: str, deviation: float) -> None:
        """Normal-like numbers of mean 0 over a flat tensor."""
        digest = blake2b(name.encode(), digest_size=8).digest()
        keys = [int.from_bytes(digest[i : i + 4], "little", signed=True) for i in (0, 4)]
        block, scale = len(self._places), deviation / _DEVIATION
        for begin in range(0, len(target), block):
            part = target[begin : begin + block]
            self._hash(len(part), begin, *keys)
            numbers = self._numbers[: len(part)]
            # A whole number, less a whole number, times a float: one rounding on any device.
            numbers.copy_(self._sum_of_bytes(len(part))).sub_(_MEAN).mul_(scale)
            part.copy_(numbers)

    def _hash(self, count: int, begin: int, first: int, second: int) -> None:
        bits = self._bits[:count]
        torch.add(self._places[:count], _wrapped(begin), out=bits)
        bits.bitwise_xor_(first)
        self._mix(bits, 16).mul_(0x7FEB352D)
        bits.bitwise_xor_(second)
        self._mix(bits, 15).mul_(_wrapped(0x846CA68B))
        self._mix(bits, 16)

    def _mix(self, bits: Tensor, shift: int) -> Tensor:
        """Exclusive or with itself, shifted down without its sign."""
        down = self._beside[: len(bits)]
        torch.bitwise_right_shift(bits, shift, out=down)
        down.bitwise_and_((1 << (32 - shift)) - 1)
        return bits.bitwise_xor_(down)

    def _sum_of_bytes(self, count: int) -> Tensor:
        """In pairs, two sums in one word each."""
        bits, down = self._bits[:count], self._beside[:count]
        torch.bitwise_right_shift(bits, 8, out=down)
        bits.bitwise_and_(0x00FF00FF)
        bits.add_(down.bitwise_and_(0x00FF00FF))
        torch.bitwise_right_shift(bits, 16, out=down)
        return bits.bitwise_and_(0xFFFF).add_(down)


def _wrapped(number: int) -> int:
    """The int32 with the same low bits."""
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)
