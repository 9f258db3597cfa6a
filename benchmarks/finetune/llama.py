"""A Llama to train, in plain PyTorch, with the names that checkpoints on the Hub have.

Root-mean-square norms, rotary positions, grouped keys and values, a gated MLP (arXiv 2302.13971).
`adapt` freezes it and trains low-rank matrices beside its projections instead (LoRA, arXiv
2106.09685); with `recompute` only each layer's input is kept for the backward pass, in pinned host
memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

BUNDLED = Path(__file__).resolve().parents[2] / "src/ellm/bundled/base"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model; embedding and head share one matrix where they are `tied`."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int = 32000
    tied: bool = False
    theta: float = 10_000.0
    eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @classmethod
    def read(cls, directory: Path) -> Shape:
        """From a checkpoint's config.json."""
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        return cls(
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            mlp=config["intermediate_size"],
            vocab=config["vocab_size"],
            tied=config["tie_word_embeddings"],
            theta=config["rope_theta"],
            eps=config["rms_norm_eps"],
        )


# The shape of TinyLlama 1.1B.
LLAMA_1B = Shape(hidden=2048, layers=22, heads=32, kv_heads=4, mlp=5632)
# What a CPU can train in a few seconds.
LLAMA_7M = Shape(hidden=256, layers=4, heads=8, kv_heads=2, mlp=704, vocab=8192)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        wide, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden, wide, bias=False)
        self.k_proj = nn.Linear(shape.hidden, narrow, bias=False)
        self.v_proj = nn.Linear(shape.hidden, narrow, bias=False)
        self.o_proj = nn.Linear(wide, shape.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, length, _ = x.shape

        def heads(y: Tensor) -> Tensor:
            return y.view(rows, length, -1, self.shape.head_dim).transpose(1, 2)

        q = _turn(heads(self.q_proj(x)), cos, sin)
        k = _turn(heads(self.k_proj(x)), cos, sin)
        v = heads(self.v_proj(x))
        many = self.shape.heads // self.shape.kv_heads
        # Not all of PyTorch's kernels know groups; those that do not would fall back to a slow one.
        k, v = k.repeat_interleave(many, 1), v.repeat_interleave(many, 1)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(rows, length, -1))
        return out


class Mlp(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.mlp, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.mlp, bias=False)
        self.down_proj = nn.Linear(shape.mlp, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden, shape.eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, shape.eps)
        self.mlp = Mlp(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Stem(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, shape.eps)


class Llama(nn.Module):
    """Logits of every position.  With `recompute`, layers are computed twice.

    Their inputs wait for that on the host.
    """

    def __init__(self, shape: Shape, recompute: bool = False) -> None:
        super().__init__()
        self.shape = shape
        self.recompute = recompute
        self.model = Stem(shape)
        self.lm_head = nn.Linear(shape.hidden, shape.vocab, bias=False)
        if shape.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    @classmethod
    def bundled(cls, device: str) -> Llama:
        """The bundled model in float32."""
        from safetensors.torch import load_file

        with torch.device(device):
            model = cls(Shape.read(BUNDLED))
        weights: dict[str, Tensor] = {}
        for file in sorted(BUNDLED.glob("*.safetensors")):
            weights |= load_file(file)
        missing, unknown = model.load_state_dict(weights, strict=False)
        assert not unknown, unknown
        assert set(missing) <= {"lm_head.weight"}, missing
        return model

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.model.embed_tokens(tokens)
        cos, sin = _angles(self.shape, tokens.shape[1], x)
        if self.recompute and not x.requires_grad:
            # Where the embedding is frozen, nothing would be computed again.
            x.requires_grad_()
        if self.recompute:
            with torch.autograd.graph.save_on_cpu(pin_memory=x.is_cuda):
                for layer in self.model.layers:
                    # The reentrant kind saves its input as any node does.
                    x = checkpoint(layer, x, cos, sin, use_reentrant=True)
        else:
            for layer in self.model.layers:
                x = layer(x, cos, sin)
        out: Tensor = self.lm_head(self.model.norm(x))
        return out


class Adapted(nn.Module):
    """A frozen projection, and a trained one of low rank beside it, in float32."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        place = {"device": base.weight.device, "dtype": torch.float32}
        spread = base.in_features**-0.5
        self.down = nn.Parameter(torch.empty(rank, base.in_features, **place))
        nn.init.uniform_(self.down, -spread, spread)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, **place))

    def forward(self, x: Tensor) -> Tensor:
        low = functional.linear(x, self.down.to(x.dtype))
        out: Tensor = self.base(x) + functional.linear(low, self.up.to(x.dtype))
        return out


def adapt(model: Llama, rank: int) -> None:
    """Freeze all weights; give every projection an adapter that is trained."""
    model.requires_grad_(False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if name in PROJECTIONS:
                setattr(module, name, Adapted(child, rank))


@contextmanager
def weights_of(dtype: torch.dtype) -> Iterator[None]:
    """New weights are of that dtype meanwhile."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _angles(shape: Shape, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position's angles, [length, head_dim]."""
    steps = torch.arange(0, shape.head_dim, 2, device=like.device, dtype=torch.float32)
    speeds = shape.theta ** (-steps / shape.head_dim)
    positions = torch.arange(length, device=like.device, dtype=torch.float32)
    angles = torch.outer(positions, speeds).repeat(1, 2)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
