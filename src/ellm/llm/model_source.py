"""From a model's name to a directory on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from ellm.core.bundled import MODELS, SHAPES
from ellm.core.errors import ModelNotFound

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_WEIGHTS = "*.safetensors"
_DESCRIBED = ["*.json", "*.jinja"]
_UNWANTED = ["*/*", "consolidated*"]


def resolve_model(name: str, weights: bool = True) -> Path:
    """A local directory, a bundled model, or a hub id (downloaded, or from the hub's cache).

    Without `weights` the hub is asked for the rest only.

    Raises ModelNotFound, saying what can be done.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name in MODELS:
        return _bundled(name)
    if path.exists():
        raise ModelNotFound(f"{path} is a file: name the directory that holds config.json")
    if not _HUB_ID.fullmatch(name) or name.startswith("."):
        raise ModelNotFound(f"no directory {path}")
    return _from_hub(name, [*_DESCRIBED, _WEIGHTS] if weights else _DESCRIBED)


def find_config(name: str) -> Path:
    """The config.json of a model whose weights are not wanted; its tokenizer may lie beside it.

    By directory, bundled model, bundled shape, or a hub id with its owner (OWNER/NAME).  Raises
    ModelNotFound, saying what can be done.
    """
    if "/" not in name and name not in MODELS and not Path(name).exists():
        shape = SHAPES / f"{name}.json"
        if shape.is_file():
            return shape
        raise ModelNotFound(_no_shape(name))
    directory = resolve_model(name, weights=False)
    if not (directory / "config.json").is_file():
        raise ModelNotFound(
            f"{directory} has no config.json, which says what random weights shall be like"
        )
    return directory / "config.json"


def _no_shape(name: str) -> str:
    known = [*MODELS, *sorted(file.stem for file in SHAPES.glob("*.json"))]
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else f"known are {', '.join(known)}"
    return f"no directory and no known shape {name!r} for --load-format dummy; {hint}"


def _bundled(name: str) -> Path:
    path = MODELS[name]
    if not (path / "config.json").is_file():
        raise ModelNotFound(
            f"this installation lacks the bundled model {name} ({path}): install the wheel, or "
            "train it with python -m tools.train_bundled"
        )
    return path


def _from_hub(name: str, wanted: Sequence[str]) -> Path:
    # Imported here because it is slow, and a local model does not need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(name, allow_patterns=list(wanted), ignore_patterns=_UNWANTED)
    except HFValidationError as error:
        raise ModelNotFound(f"no directory {name}, and not a hub id: {error}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelNotFound(_remedy(name, error)) from error
    return Path(found)


def _remedy(name: str, error: Exception) -> str:
    first_line = str(error).strip().partition("\n")[0]
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    hint = "unset HF_HUB_OFFLINE to download it, " if offline else ""
    if (SHAPES / f"{name}.json").is_file():
        hint += "add --load-format dummy for random weights of this shape, "
    return (
        f"no directory {name}, and the hub has no answer for this id ({first_line}): {hint}give "
        f"the path of a local model directory, check the spelling (HF_TOKEN opens private "
        f"models), or use a bundled model: {', '.join(MODELS)}"
    )
