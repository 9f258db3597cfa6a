"""The Llama architecture written for training, its parameters named as Hugging Face names them.

Promise: `state_dict` is what `transformers.LlamaForCausalLM` loads for the same shape, and the
logits of both agree (tests/cpu/test_bundled_models.py and `export` check it).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

MAX_POSITIONS = 2048
ROPE_THETA = 10_000.0
NORM_EPSILON = 1e-5
INITIAL_STD = 0.02
QUERY_BLOCK = 256


@dataclass(frozen=True)
class Shape:
    """The sizes that tell one model from another."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int = 8192
    head_width: int = 64
    positions: int = MAX_POSITIONS


SHAPES = {
    "base": Shape(hidden=384, layers=6, heads=6, kv_heads=2, mlp=1024),
    "draft": Shape(hidden=192, layers=2, heads=3, kv_heads=1, mlp=512),
}


class Attention(nn.Module):
    """Grouped-query causal attention with rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width, kv_width = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
        self.q_proj = nn.Linear(shape.hidden, width, bias=False)
        self.k_proj = nn.Linear(shape.hidden, kv_width, bias=False)
        self.v_proj = nn.Linear(shape.hidden, kv_width, bias=False)
        self.o_proj = nn.Linear(width, shape.hidden, bias=False)

    def forward(self, states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Mix each position with those before it."""
        batch, length, _ = states.shape
        width = self.shape.head_width

        def split(projected: Tensor) -> Tensor:
            return projected.view(batch, length, -1, width).transpose(1, 2)

        query = rotate(split(self.q_proj(states)), cosine, sine)
        key = rotate(split(self.k_proj(states)), cosine, sine)
        value = split(self.v_proj(states))
        groups = self.shape.heads // self.shape.kv_heads
        mixed = causal_attention(
            query, key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        )
        projected: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return projected


class GatedMlp(nn.Module):
    """The SwiGLU feed-forward block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.mlp, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.mlp, bias=False)
        self.down_proj = nn.Linear(shape.mlp, shape.hidden, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """Apply the block to each position."""
        gated: Tensor = self.down_proj(
            functional.silu(self.gate_proj(states)) * self.up_proj(states)
        )
        return gated


class Layer(nn.Module):
    """One pre-norm block: attention, then the feed-forward."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = GatedMlp(shape)
        self.input_layernorm = nn.RMSNorm(shape.hidden, eps=NORM_EPSILON)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, eps=NORM_EPSILON)

    def forward(self, states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Add both blocks' results to the residual stream."""
        states = states + self.self_attn(self.input_layernorm(states), cosine, sine)
        summed: Tensor = states + self.mlp(self.post_attention_layernorm(states))
        return summed


class Decoder(nn.Module):
    """The stack between ids and the last normalised states."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=NORM_EPSILON)


class Llama(nn.Module):
    """The model; the embedding is also the output matrix."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        cosine, sine = rotary_tables(shape.head_width, shape.positions)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)

    def reset(self, seed: int) -> None:
        """Draw the initial parameters; blocks start as the identity (zero output matrices)."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                nn.init.ones_(parameter)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)
            elif name.endswith("embed_tokens.weight"):
                nn.init.normal_(parameter, std=INITIAL_STD, generator=generator)
            else:
                std = parameter.shape[1] ** -0.5
                nn.init.normal_(parameter, std=std, generator=generator)

    def forward(self, ids: Tensor) -> Tensor:
        """The logits after each position."""
        length = ids.shape[1]
        cosine, sine = self.cosine[:length], self.sine[:length]
        states = self.through_layers(self.model.embed_tokens(ids), cosine, sine)
        return functional.linear(self.model.norm(states), self.model.embed_tokens.weight)

    def through_layers(self, states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """All layers, one after the other."""
        for layer in self.model.layers:
            states = layer(states, cosine, sine)
        return states

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The sum over positions of the cross-entropy, in nats."""
        logits = self(ids)
        return functional.cross_entropy(
            logits.view(-1, logits.shape[-1]).float(), targets.reshape(-1), reduction="sum"
        )

    def distribution(self, ids: Tensor) -> Tensor:
        """The probabilities of each next id."""
        probabilities: Tensor = self(ids).float().softmax(dim=-1)
        return probabilities

    def taught_loss(self, ids: Tensor, targets: Tensor, lesson: Tensor) -> Tensor:
        """As `loss`, against the mean of the targets and a teacher's distribution."""
        logits = self(ids)
        codes = functional.log_softmax(logits.view(-1, logits.shape[-1]).float(), dim=-1)
        hard = functional.nll_loss(codes, targets.reshape(-1), reduction="sum")
        soft = -(lesson.view(codes.shape) * codes).sum()
        return 0.5 * (hard + soft)


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention of each position over itself and those before it.

    On a CPU by plain matrix products over blocks of queries: their backward is several times
    faster in bfloat16 than the fused kernel's.
    """
    if query.is_cuda:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    length, width = query.shape[-2], query.shape[-1]
    mixed = []
    for start in range(0, length, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, length)
        scores = query[..., start:end, :] @ key[..., :end, :].transpose(-2, -1)
        later = torch.ones(end - start, end, dtype=torch.bool, device=query.device)
        scores = (scores.float() * width**-0.5).masked_fill(later.triu(start + 1), -torch.inf)
        weights = scores.softmax(dim=-1).to(value.dtype)
        mixed.append(weights @ value[..., :end, :])
    return torch.cat(mixed, dim=-2)


def rotary_tables(width: int, positions: int = MAX_POSITIONS) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angles, halves repeated as Llama lays them out."""
    frequencies = ROPE_THETA ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().float(), angles.sin().float()


def rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair of features by its position's angle."""
    first, second = states.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (states * cosine + turned * sine).to(states.dtype)
