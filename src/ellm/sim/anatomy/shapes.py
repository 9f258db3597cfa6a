"""Models by name, of which only the shape matters."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from ellm.core.bundled import MODELS, SHAPES
from ellm.core.errors import ModelNotFound
from ellm.sim.anatomy.reader import read_config, read_transformer
from ellm.sim.anatomy.transformer import Transformer


def known_shapes() -> list[str]:
    """Names of the shapes that are bundled."""
    return sorted([*MODELS, *(file.stem for file in SHAPES.glob("*.json"))])


def find_transformer(name: str) -> Transformer:
    """By a config.json, a model's directory, or a bundled name; weights are not needed.

    Raises ModelNotFound with the names that come close, ModelError for a config that says too
    little.
    """
    path = Path(name).expanduser()
    if path.exists():
        label = path.parent.name if path.name == "config.json" else path.stem
        where = path / "config.json" if path.is_dir() else path
        return read_transformer(read_config(path), label, str(where))
    wanted = name.lower()
    if wanted in MODELS:
        return read_transformer(read_config(MODELS[wanted]), wanted)
    file = SHAPES / f"{wanted}.json"
    if file.is_file():
        return read_transformer(read_config(file), wanted)
    close = _alike(wanted)
    known = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known_shapes())}"
    raise ModelNotFound(f"no file, directory or known shape {name!r}; {known}")


def _alike(wanted: str) -> list[str]:
    """Names that begin so, the last versions first; where there are none, what comes close."""
    beginning = [name for name in reversed(known_shapes()) if wanted and name.startswith(wanted)]
    return beginning or get_close_matches(wanted, known_shapes(), n=3, cutoff=0.5)
