"""Options that users of other engines bring along, and what to do instead."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ParamSpec

from ellm.core.errors import ConfigError

P = ParamSpec("P")

_ONE_DEVICE = "eLLM runs on one device: leave it out"
_MEMORY = "weights, activations and KV share one budget: give it with --memory or memory=, as 4GiB"

REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "gpu_memory_utilization": f"eLLM takes no fraction; {_MEMORY}",
        "kv_cache_memory_bytes": _MEMORY,
        "swap_space": "give the size of the tier below with --kv-offloading-size, as 8GiB",
        "cpu_offload_gb": f"nothing is offloaded; {_MEMORY}",
        "tensor_parallel_size": _ONE_DEVICE,
        "pipeline_parallel_size": _ONE_DEVICE,
        "data_parallel_size": _ONE_DEVICE,
        "distributed_executor_backend": _ONE_DEVICE,
        "enforce_eager": "every step runs eagerly: leave it out",
        "quantization": "weights are not quantized: leave it out, or choose a smaller --dtype",
        "kv_cache_dtype": "KV has the dtype of the weights: choose it with --dtype or dtype=",
        "trust_remote_code": "no model's own code is ever run: leave it out",
    }
)
"""From an option's name as a keyword to one line for a person."""


def explain_unknown(init: Callable[P, None]) -> Callable[P, None]:
    """Let `init` refuse a keyword that has a remedy with ConfigError; its signature stays."""
    known = inspect.signature(init).parameters

    @functools.wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        for name in kwargs:
            if name not in known and name in REMEDIES:
                raise ConfigError(f"{name}: {REMEDIES[name]}")
        init(*args, **kwargs)

    return checked
