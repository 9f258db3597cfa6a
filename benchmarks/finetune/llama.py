"""The Llama that trains the bundled models, adapted and computed twice.

`adapt` freezes it and trains low-rank matrices beside its projections instead (LoRA, arXiv
2106.09685); a `Recomputed` one keeps only each layer's input for the backward pass, in pinned host
memory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tools.train_bundled.model import SHAPES, Llama, Shape

from ellm.core.bundled import MODELS

BUNDLED = MODELS["ellm-base"]
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# The shape of TinyLlama 1.1B, with one matrix for embedding and head.
LLAMA_1B = Shape(
    hidden=2048, layers=22, heads=32, kv_heads=4, mlp=5632, vocabulary=32000, positions=4096
)
# What a CPU can train in a few seconds.
LLAMA_7M = Shape(hidden=256, layers=4, heads=8, kv_heads=2, mlp=704, head_width=32)


def bundled(device: str) -> Llama:
    """The bundled model in float32."""
    from safetensors.torch import load_file

    with torch.device(device):
        model = Llama(SHAPES["base"])
    weights: dict[str, Tensor] = {}
    for file in sorted(BUNDLED.glob("*.safetensors")):
        weights |= load_file(file)
    model.load_state_dict(weights)
    return model


class Recomputed(Llama):
    """Layers are computed twice; their inputs wait for that on the host."""

    def through_layers(self, states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        if not states.requires_grad:
            # Where the embedding is frozen, nothing would be computed again.
            states.requires_grad_()
        with torch.autograd.graph.save_on_cpu(pin_memory=states.is_cuda):
            for layer in self.model.layers:
                # The reentrant kind saves its input as any node does.
                states = checkpoint(layer, states, cosine, sine, use_reentrant=True)
        return states


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
