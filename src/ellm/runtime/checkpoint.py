"""A Hugging Face model directory, checked before a byte of weights is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ellm.core.errors import CheckpointError, ModelNotFound
from ellm.models.parameters import Parameter
from ellm.runtime.safetensors_header import StoredTensor, read_header

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_FLOATS = ("F32", "F16", "BF16")
_LISTED = 5


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The config, and where every tensor is.

    Opening raises ModelNotFound when there is no such directory, CheckpointError for anything
    missing, truncated or malformed in it.
    """

    directory: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    @classmethod
    def open(cls, directory: str | Path) -> Checkpoint:
        place = Path(directory)
        if not place.is_dir():
            raise ModelNotFound(f"no model directory {place}")
        return cls(place, read_json(place / "config.json"), _find_tensors(place))

    def check(self, parameters: Sequence[Parameter], ignored: Sequence[str] = ()) -> None:
        """Every source is there in the expected shape, and nothing else is.

        `ignored` are tensors that may stand in the files unread, as may rotary tables.
        """
        wanted = {source.name: source.shape for one in parameters for source in one.sources}
        missing = [name for name in wanted if name not in self.tensors]
        if missing:
            raise CheckpointError(
                f"{self.directory}: {_listed(missing)} missing from the checkpoint; "
                "config.json and the weights do not belong together, or a file is incomplete"
            )
        for name, shape in wanted.items():
            stored = self.tensors[name]
            if stored.shape != shape:
                raise CheckpointError(
                    f"{stored.path}: {name} has shape {list(stored.shape)}, config.json implies "
                    f"{list(shape)}; config.json and the weights do not belong together"
                )
            if stored.dtype not in _FLOATS:
                raise CheckpointError(
                    f"{stored.path}: {name} is {stored.dtype}; eLLM loads {', '.join(_FLOATS)}: "
                    "take the unquantized checkpoint"
                )
        spare = [
            name
            for name in self.tensors
            if name not in wanted and name not in ignored and "rotary_emb" not in name
        ]
        if spare:
            raise CheckpointError(
                f"{self.directory}: {_listed(spare)} in the checkpoint but not in the architecture "
                "that config.json names; check its 'architectures'"
            )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.  Raises CheckpointError when the file is missing or is anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent} has no {path.name}: is it a Hugging Face model directory?"
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def _find_tensors(place: Path) -> dict[str, StoredTensor]:
    """From the single file, or from the shards that the index names."""
    if (place / _SINGLE).exists():
        return read_header(place / _SINGLE)
    if not (place / _INDEX).exists():
        raise CheckpointError(_no_weights(place))
    index = read_json(place / _INDEX).get("weight_map")
    if not isinstance(index, dict):
        raise CheckpointError(f"{place / _INDEX} has no 'weight_map'; download it again")
    shards = sorted({str(name) for name in index.values()})
    absent = [name for name in shards if not (place / name).exists()]
    if absent:
        raise CheckpointError(
            f"{place}: {_listed(absent)} missing of {len(shards)} shards; download the rest"
        )
    headers = {name: read_header(place / name) for name in shards}
    for name, shard in index.items():
        if name not in headers[str(shard)]:
            raise CheckpointError(
                f"{place / str(shard)} lacks {name}, which {_INDEX} places there; "
                "the shards are of different downloads: download all again"
            )
    return {name: stored for header in headers.values() for name, stored in header.items()}


def _no_weights(place: Path) -> str:
    if any(place.glob("pytorch_model*.bin")):
        return (
            f"{place} has only pytorch_model.bin weights; eLLM reads safetensors. Convert once: "
            "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(DIR) with transformers"
        )
    return f"{place} has neither {_SINGLE} nor {_INDEX}: the weights were not downloaded"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_LISTED])
    more = len(names) - _LISTED
    return (
        shown + (f" and {more} more" if more > 0 else "") + (" is" if len(names) == 1 else " are")
    )
