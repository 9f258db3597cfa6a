"""A Llama as one writes it in PyTorch: what `torch.compile` is given, and what eager means.

KV lies in buffers of a fixed length, which a step updates in place: so a step has fixed addresses
and can be captured whole (mode reduce-overhead).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.random_llama import RandomLlama


class Attention(nn.Module):
    keys: Tensor
    values: Tensor

    def __init__(self, shape: RandomLlama, sequences: int, length: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = shape.heads, shape.kv_heads, shape.head_dim
        wide = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        self.qkv = nn.Linear(shape.hidden, wide, bias=False)
        self.out = nn.Linear(shape.heads * shape.head_dim, shape.hidden, bias=False)
        room = (sequences, shape.kv_heads, length, shape.head_dim)
        self.register_buffer("keys", torch.zeros(room))
        self.register_buffer("values", torch.zeros(room))

    def forward(self, x: Tensor, place: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        count = len(x)
        qkv = self.qkv(x).view(count, 1, -1, self.width).transpose(1, 2)
        query, key, value = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        query, key = rotated(query, cos, sin), rotated(key, cos, sin)
        self.keys.index_copy_(2, place, key)
        self.values.index_copy_(2, place, value)
        answer = F.scaled_dot_product_attention(
            query, self.keys, self.values, attn_mask=mask, enable_gqa=True
        )
        return self.out(answer.transpose(1, 2).reshape(count, -1))


class Layer(nn.Module):
    def __init__(self, shape: RandomLlama, sequences: int, length: int) -> None:
        super().__init__()
        self.before = nn.RMSNorm(shape.hidden, eps=1e-5)
        self.attention = Attention(shape, sequences, length)
        self.between = nn.RMSNorm(shape.hidden, eps=1e-5)
        self.up = nn.Linear(shape.hidden, 2 * shape.mlp, bias=False)
        self.down = nn.Linear(shape.mlp, shape.hidden, bias=False)

    def forward(self, x: Tensor, place: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.before(x), place, cos, sin, mask)
        gate, up = self.up(self.between(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Plain(nn.Module):
    """`forward` takes a token of each sequence and the place of all, and gives the next tokens."""

    frequencies: Tensor
    places: Tensor

    def __init__(self, shape: RandomLlama, sequences: int, length: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape, sequences, length) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=1e-5)
        self.head = nn.Linear(shape.hidden, shape.vocab, bias=False)
        if shape.tied:
            self.head.weight = self.embed.weight
        half = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        self.register_buffer("frequencies", 10_000.0**-half)
        self.register_buffer("places", torch.arange(length))

    def forward(self, tokens: Tensor, place: Tensor) -> Tensor:
        x = self.embed(tokens)
        angles = place.float() * self.frequencies.float()
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        mask = (self.places <= place)[None, None, None]
        for layer in self.layers:
            x = layer(x, place, cos, sin, mask)
        return self.head(self.norm(x)).argmax(-1)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    one, other = x.chunk(2, dim=-1)
    return torch.cat((one * cos - other * sin, other * cos + one * sin), dim=-1)


def build(shape: RandomLlama, sequences: int, length: int, device: str) -> Plain:
    """In bfloat16, its numbers made where they are needed."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return Plain(shape, sequences, length).eval()
    finally:
        torch.set_default_dtype(usual)
