"""What comes with the package beside code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

HOME = Path(__file__).parents[1] / "bundled"
MODELS: Mapping[str, Path] = MappingProxyType(
    {"ellm-base": HOME / "base", "ellm-draft": HOME / "draft"}
)
"""Directories of models that can be served, by name."""
SHAPES = HOME / "shapes"
"""A config for each model of which only the shape is known here."""
