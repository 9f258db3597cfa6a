"""The two models, and the budget that each is measured in.

                             activation : KV        KV of 32768 tokens   model it stands for
                             bytes of a token       : weights
    llama    0.46 GiB        0.68                   1.9                  Llama-3-8B-262K (0.78, 2.3)
    qwen     0.92 GiB        2.7                    0.41                 Qwen2.5-0.5B itself

Activations are this engine's own exact price of one step over the whole context.  A budget is the
smallest in which an engine with fixed shares can start at all: weights, the activations of the
longest prompt, and KV for one sequence of the whole context.
"""

from __future__ import annotations

from dataclasses import dataclass

from ellm.core.units import MIB
from harness.random_llama import RandomLlama

CONTEXT = 32_768
OUTPUT = 256


@dataclass(frozen=True, slots=True)
class Shape:
    """A model, the bytes it may have, and prompt lengths to ask about."""

    model: RandomLlama
    budget: int
    inputs: tuple[int, ...]
    ablated: tuple[int, ...]

    @property
    def attention_width(self) -> int:
        return self.model.layers * self.model.heads * self.model.head_dim

    def requests(self, length: int, most: int) -> int:
        """More than could ever fit."""
        return min(most, 2 + self.budget // (length * self.model.kv_token_bytes))


INPUTS = (1024, 2048, 4096, 8192, 16_384, CONTEXT - OUTPUT)

SHAPES = {
    "llama": Shape(
        RandomLlama(
            name="llama-shaped",
            hidden=768,
            layers=28,
            heads=12,
            kv_heads=4,
            mlp=2688,
            positions=CONTEXT,
        ),
        1980 * MIB,
        INPUTS,
        (2048, 16_384),
    ),
    "qwen": Shape(
        RandomLlama(
            name="qwen-shaped",
            hidden=896,
            layers=24,
            heads=14,
            kv_heads=2,
            mlp=4864,
            vocab=151_936,
            positions=CONTEXT,
        ),
        2360 * MIB,
        INPUTS,
        (2048, 16_384),
    ),
}

# Only to see that everything works: everything is eight times smaller.
QUICK = {
    "quick": Shape(
        RandomLlama(
            name="quick", hidden=256, layers=8, heads=4, kv_heads=2, mlp=896, positions=4096
        ),
        84 * MIB,
        (512, 4096 - OUTPUT),
        (512,),
    )
}
