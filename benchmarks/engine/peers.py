"""Where each engine is installed, and with what its processes begin."""

from __future__ import annotations

import os
import sys
from ctypes.util import find_library
from pathlib import Path

from setting import KV_BYTES, Setting

HOME = Path(os.environ.get("PEERS_HOME", Path.home() / ".cache/peers"))
OPTIMUM = HOME / "ov/bin/optimum-cli"
LLAMA_SERVER = HOME / "lcpp/bin/llama-server"
# The environment with the packages that write a model for llama.cpp.
GGUF_PYTHON = HOME / "hf/bin/python"
# What an engine needs besides this environment; engines without an entry need nothing.
_NEEDS = {
    "vllm": (HOME / "vllm/bin/python",),
    "openvino": (HOME / "ov/bin/python", OPTIMUM),
    "llama.cpp": (LLAMA_SERVER, GGUF_PYTHON),
}


def missing(engine: str) -> Path | None:
    """What `engine` cannot do without; None when it can run."""
    return next((path for path in _NEEDS.get(engine, ()) if not path.exists()), None)


def python(engine: str) -> str:
    """The interpreter that has `engine`'s package."""
    needs = _NEEDS.get(engine, ())
    return str(needs[0]) if needs and needs[0].name == "python" else sys.executable


def environment(engine: str, setting: Setting) -> dict[str, str]:
    """Variables that `engine`'s processes have besides ours."""
    common = {"OMP_NUM_THREADS": str(setting.threads), "HF_HUB_OFFLINE": "1"}
    return common | _vllm(setting.threads) if engine == "vllm" else common


def _vllm(threads: int) -> dict[str, str]:
    """As its documentation advises for CPUs; its own choice of cores may be fewer than asked."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    openmp = HOME / "vllm/lib/libiomp5.so"
    preload = [find_library("tcmalloc_minimal"), str(openmp) if openmp.exists() else None]
    return {
        "LD_PRELOAD": ":".join(filter(None, preload)),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_CPU_KVCACHE_SPACE": str(KV_BYTES >> 30),
        "VLLM_NO_USAGE_STATS": "1",
    }
