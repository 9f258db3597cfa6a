"""A few real training steps of a language model, under the strategies that save memory.

N is plain; a name has a letter for each of the others: R recomputes activations, L trains low-rank
adapters only (LoRA), O keeps optimizer and saved activations on the host.  What is on the host is
allocated within `host()`, so that a recorder can tell it from the device's memory.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import record_function
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

BUNDLED = Path(__file__).resolve().parents[2] / "src/ellm/bundled/base"
STRATEGIES = ("N", "R", "L", "O", "LR", "RO", "LRO")
HOST = "on the host"
_ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_RANK = 16
# Saved tensors below this stay on the device: not worth a transfer.
_OFFLOAD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Workload:
    """A model's name, and how many steps of how many sequences up to which length."""

    model: str
    steps: int
    sequences: int
    tokens: int


WORKLOADS = (
    Workload("ellm-base", steps=10, sequences=8, tokens=512),
    Workload("llama-100m", steps=6, sequences=4, tokens=256),
)


def host() -> Any:
    """What is allocated inside is not the device's."""
    return record_function(HOST)


def train(workload: Workload, strategy: str, seed: int) -> None:
    """Build the model and run the steps; batches differ in sequences and in length."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = _model(workload.model)
    if "L" in strategy:
        _adapt(model)
    if "R" in strategy:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = HostAdamW(trained) if "O" in strategy else DeviceAdamW(trained)
    for _ in range(workload.steps):
        rows = rng.randint(1, workload.sequences)
        length = rng.randint(workload.tokens // 4, workload.tokens)
        batch = torch.randint(0, model.config.vocab_size, (rows, length))
        with _offloading(model) if "O" in strategy else nullcontext():
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        del loss
        optimizer.step()


class DeviceAdamW:
    """AdamW as it runs on a device: all parameters in one call."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self._optimizer = torch.optim.AdamW(parameters, lr=1e-4, foreach=True)

    def step(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


class HostAdamW:
    """AdamW on copies in host memory: every gradient leaves as soon as it is complete."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        with host():
            self._copies = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
            self._optimizer = torch.optim.AdamW(self._copies, lr=1e-4)
        self._pairs = list(zip(parameters, self._copies, strict=True))
        for parameter, copy in self._pairs:
            parameter.register_post_accumulate_grad_hook(_leave_to(copy))

    def step(self) -> None:
        with host():
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for parameter, copy in self._pairs:
                parameter.copy_(copy)


def _leave_to(copy: torch.nn.Parameter) -> Any:
    def leave(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        with host():
            copy.grad = parameter.grad.clone()
        parameter.grad = None

    return leave


@contextmanager
def _offloading(model: torch.nn.Module) -> Iterator[None]:
    """Tensors saved for backward go to the host and come back when they are needed."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> tuple[bool, torch.Tensor]:
        small = tensor.nbytes < _OFFLOAD_BYTES
        if small or tensor.untyped_storage().data_ptr() in own:
            return False, tensor
        with host():
            return True, tensor.clone()

    def unpack(packed: tuple[bool, torch.Tensor]) -> torch.Tensor:
        away, tensor = packed
        return tensor.clone() if away else tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


class Adapted(torch.nn.Module):
    """A frozen linear layer and a trained low-rank one beside it."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = torch.nn.Linear(base.in_features, _RANK, bias=False)
        self.up = torch.nn.Linear(_RANK, base.out_features, bias=False)
        torch.nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.base(x) + self.up(self.down(x))
        return y


def _adapt(model: Any) -> None:
    model.requires_grad_(False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if name in _ADAPTED:
                setattr(module, name, Adapted(child))
    # Recomputation needs an input that wants a gradient.
    model.enable_input_require_grads()


def _model(name: str) -> Any:
    if name == "ellm-base":
        return AutoModelForCausalLM.from_pretrained(BUNDLED, dtype=torch.float32)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)
