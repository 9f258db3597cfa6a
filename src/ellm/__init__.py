"""eLLM: LLM serving on elastic memory.

    from ellm import LLM, SamplingParams

    llm = LLM("path/to/model", memory="4GiB")
    print(llm.generate("def fib(n):", SamplingParams(max_tokens=32))[0].outputs[0].text)

Names are imported when first used, so that `import ellm.sim` loads no tensor library.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ellm.core.sampling import SamplingParams
    from ellm.llm.args import EngineArgs
    from ellm.llm.async_llm import AsyncLLM
    from ellm.llm.fleet import AsyncFleet
    from ellm.llm.llm import LLM
    from ellm.llm.torch_allocator import torch_allocator

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "AsyncFleet",
    "AsyncLLM",
    "EngineArgs",
    "SamplingParams",
    "__version__",
    "torch_allocator",
]

# OpenMP's threads spin while they wait for one another, which on a machine with other work makes
# a step of milliseconds take a second.  A short spin keeps the speed of an idle machine; libgomp
# reads this when torch loads, and a user's own setting wins.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_HOMES = {
    "LLM": "ellm.llm.llm",
    "AsyncFleet": "ellm.llm.fleet",
    "AsyncLLM": "ellm.llm.async_llm",
    "EngineArgs": "ellm.llm.args",
    "SamplingParams": "ellm.core.sampling",
    "torch_allocator": "ellm.llm.torch_allocator",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ellm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
