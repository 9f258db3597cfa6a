"""What a decoder is, in numbers: everything the one decoder needs to be any family."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ellm.core.layers import LayerSpec
from ellm.kernels.activation import Activation


class Norm(Enum):
    RMS = "rms"
    LAYER = "layer"


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotation of the first `2 * len(inverse_frequencies)` numbers of every head.

    Angles are position × inverse frequency; cosine and sine are multiplied by `scale`.
    """

    inverse_frequencies: tuple[float, ...]
    scale: float = 1.0

    @property
    def dim(self) -> int:
        return 2 * len(self.inverse_frequencies)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightNames:
    """Names in the checkpoint, without `.weight` and `.bias`; layer names follow `layer.{i}.`.

    Tuples are matrices over the same input, stored here as one, in this order.
    """

    embed: str = "model.embed_tokens"
    positions: str | None = None
    layer: str = "model.layers"
    attention_norm: str = "input_layernorm"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    query_norm: str = "self_attn.q_norm"
    key_norm: str = "self_attn.k_norm"
    attention_out: str = "self_attn.o_proj"
    mlp_norm: str = "post_attention_layernorm"
    up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"
    final_norm: str = "model.norm"
    head: str = "lm_head"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """A decoder-only transformer with norms before attention and MLP.

    `windows` has the tokens each layer sees, None for all.  `positions` counts the rows of a
    learned position table, of which the first `position_offset` are never used; 0 is no table.
    `gated` MLPs compute act(gate) × up from one merged matrix.  `dtype` is the checkpoint's own,
    None where the config does not say.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    windows: tuple[int | None, ...]
    rope: RopeSpec | None
    norm: Norm = Norm.RMS
    norm_eps: float
    activation: Activation = Activation.SILU
    gated: bool = True
    qkv_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied: bool = False
    positions: int = 0
    position_offset: int = 0
    names: WeightNames = WeightNames()
    dtype: str | None = None

    @property
    def num_layers(self) -> int:
        return len(self.windows)

    @property
    def query_width(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Numbers a token keeps in one layer for its keys (as many again for its values)."""
        return self.num_kv_heads * self.head_dim

    @property
    def qkv_width(self) -> int:
        return self.query_width + 2 * self.kv_width

    @property
    def up_width(self) -> int:
        return self.intermediate_size * (2 if self.gated else 1)

    def layers(self, itemsize: int) -> tuple[LayerSpec, ...]:
        """What each layer keeps per token, with numbers of `itemsize` bytes."""
        return tuple(
            LayerSpec(self.num_kv_heads, self.head_dim, itemsize, window) for window in self.windows
        )
