"""eLLM: LLM serving on elastic memory.

    from ellm import LLM, SamplingParams

    llm = LLM("path/to/model", memory="4GiB")
    print(llm.generate("def fib(n):", SamplingParams(max_tokens=32))[0].outputs[0].text)

Names are imported when first used, so that `import ellm.sim` loads no tensor library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ellm.core.sampling import SamplingParams
    from ellm.llm.async_llm import AsyncLLM
    from ellm.llm.llm import LLM

__version__ = "0.1.0"
__all__ = ["LLM", "AsyncLLM", "SamplingParams", "__version__"]

_HOMES = {
    "LLM": "ellm.llm.llm",
    "AsyncLLM": "ellm.llm.async_llm",
    "SamplingParams": "ellm.core.sampling",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ellm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
