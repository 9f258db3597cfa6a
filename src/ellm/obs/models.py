"""The models of a fleet at one moment, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class ModelState(Enum):
    """Where a model is in its life.

    LOADING ──▶ AWAKE ──▶ FALLING_ASLEEP ──▶ ASLEEP ──▶ WAKING ──▶ AWAKE
                  │               └ its bytes go below │  ◀────┘ if that fails
                  └─────────────▶ LEAVING ◀────────────┘

    Requests may wait in every state but LOADING, when the model is not known yet, and LEAVING,
    when it takes none.
    """

    LOADING = "loading"
    AWAKE = "awake"
    FALLING_ASLEEP = "falling asleep"
    ASLEEP = "asleep"
    WAKING = "waking"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model, under the name that requests give; of one that is loading no more is known.

    `max_model_len` is in tokens; `created` is when it was loaded, in Unix seconds.  `held` are its
    bytes by kind: weights, activations, kv.  `wake_seconds` is how long it last took to wake,
    None if it never did.  `root` is where it was loaded from, None where that is its name.
    """

    name: str
    state: ModelState
    max_model_len: int | None = None
    created: float = 0.0
    held: Mapping[str, int] = field(default_factory=dict)
    wake_seconds: float | None = None
    root: str | None = None
