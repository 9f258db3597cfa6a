"""In what numbers a model is kept and computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ellm.core.errors import ConfigError

# Four-bit weights share a scale among 64 (two bytes): 4.25 bits each.
BITS: Mapping[str, float] = MappingProxyType(
    {"fp32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "int4": 4.25, "fp4": 4.25}
)
_WORDS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "auto": "bf16"}


@dataclass(frozen=True, slots=True)
class Formats:
    """Of weights, of the KV cache, and of what passes between layers.

    `torch`'s names of formats are understood too.  Raises ConfigError for an unknown one.
    """

    weights: str = "bf16"
    kv: str = "bf16"
    activations: str = "bf16"

    def __post_init__(self) -> None:
        for name in ("weights", "kv", "activations"):
            word = str(getattr(self, name)).removeprefix("torch.")
            word = _WORDS.get(word, word)
            if word not in BITS:
                raise ConfigError(f"no number format {word!r} for {name}: one of {', '.join(BITS)}")
            object.__setattr__(self, name, word)

    @property
    def weight_bytes(self) -> float:
        """Of one parameter of a product; tables and norms stay as activations are."""
        return BITS[self.weights] / 8

    @property
    def kv_bytes(self) -> int:
        """Of one cached number."""
        return max(1, int(BITS[self.kv] // 8))

    @property
    def bytes(self) -> int:
        """Of one number between layers."""
        return int(BITS[self.activations] // 8)
