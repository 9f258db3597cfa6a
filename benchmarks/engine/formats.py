"""The model in the formats that other engines read, each made once, beside it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from peers import GGUF_PYTHON, OPTIMUM

HERE = Path(__file__).resolve().parent


def converted(model: Path, engine: str) -> Path:
    """`model` as `engine` reads it: a directory, or a file for llama.cpp."""
    if engine == "openvino":
        export = [OPTIMUM, "export", "openvino", "--task", "text-generation-with-past"]
        # Its weights are 16 bits wide as fp16 only; it computes in another precision if asked.
        return _made(model, "openvino", [*export, "--weight-format", "fp16", "--model", model])
    if engine == "llama.cpp":
        return _made(model, "gguf", [GGUF_PYTHON, HERE / "to_gguf.py", model])
    return model


def _made(model: Path, form: str, command: list[str | Path]) -> Path:
    """What `command` writes to its last argument, which is added here."""
    target = model.with_name(f"{model.name}.{form}")
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=model.parent) as partial:
            made = Path(partial) / "made"
            environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
            done = subprocess.run([*command, made], env=environment, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{command[0]} failed:\n{done.stderr[-3000:]}")
            made.rename(target)
    return target
