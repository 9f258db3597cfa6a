"""Bit for bit: what a request is told does not depend on what else is in its steps."""

from __future__ import annotations

import random

import pytest
import torch
import transformers
from backends import NATIVE
from device_half import Device, save_random
from torch import Tensor

pytestmark = pytest.mark.skipif(not NATIVE, reason="built without a C++ compiler")

LENGTH = 150
OTHERS = 7


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Device:
    place = tmp_path_factory.mktemp("qwen")
    config = transformers.Qwen3Config(
        vocab_size=331, hidden_size=96, intermediate_size=200, num_hidden_layers=3, head_dim=32,
        num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    save_random(transformers.Qwen3ForCausalLM(config), place)
    return Device(place, request.param, sequences=OTHERS + 1, tokens=256, page=16)


def prompt(seed: int, length: int = LENGTH) -> list[int]:
    return random.Random(seed).choices(range(331), k=length)


def in_pieces(device: Device, cuts: list[int], beside: int) -> Tensor:
    """Logits of the prompt in the pieces that `cuts` end, with so many other sequences."""
    others = [prompt(10 + index, 20 * (index + 1)) for index in range(beside)]
    found, first = [], 0
    for number, last in enumerate(cuts):
        parts = [(1 + index, [tokens[number]], number) for index, tokens in enumerate(others)]
        found.append(device.logits([*parts, (0, prompt(1)[first:last], first)])[-1])
        first = last
    return torch.cat(found)


@pytest.mark.parametrize("beside", [0, OTHERS])
@pytest.mark.parametrize(
    "cuts",
    [[LENGTH], [1, 2, 3, 64, 65, LENGTH], [100, *range(101, 116), LENGTH]],
    ids=["whole", "cut", "decoded"],
)
def test_logits(device: Device, cuts: list[int], beside: int) -> None:
    wanted = in_pieces(device, [LENGTH], 0)
    assert torch.equal(in_pieces(device, cuts, beside), wanted)
