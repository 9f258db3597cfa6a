"""The function inside an MLP."""

from __future__ import annotations

from enum import Enum


class Activation(Enum):
    """The function between the two halves of an MLP, in Hugging Face's names."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_pytorch_tanh"
    RELU = "relu"
