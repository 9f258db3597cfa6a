"""A Hugging Face `config.json`, read with types, defaults and clear complaints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ellm.core.errors import ModelError, UnsupportedModel
from ellm.kernels.activation import Activation


class HfConfig:
    """Typed look-ups.  An absent or null key takes the default; without one it is an error.

    Raises ModelError naming the key, and the file as `where` says, when a value has the wrong type.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "config.json") -> None:
        self.where = where
        self._values = values

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def _get(self, key: str, default: Any) -> Any:
        value = self._values.get(key)
        if value is None:
            value = default
        if value is None:
            raise ModelError(f"{self.where} has no {key!r}: the model's config is incomplete")
        return value

    def integer(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ModelError(
                f"{self.where}: {key} must be a whole number of at least {least}, not {value!r}"
            )
        return value

    def optional_integer(self, key: str, default: int | None = None) -> int | None:
        """An explicit null is None; an absent key is the default."""
        if self._values.get(key, default) is None:
            return None
        return self.integer(key, default)

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ModelError(f"{self.where}: {key} must be a number, not {value!r}")
        return float(value)

    def numbers(self, key: str, default: Sequence[float] | None = None) -> list[float]:
        value = self._get(key, default)
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ModelError(f"{self.where}: {key} must be a list of numbers, not {value!r}")
        return [float(item) for item in value]

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise ModelError(f"{self.where}: {key} must be true or false, not {value!r}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise ModelError(f"{self.where}: {key} must be a string, not {value!r}")
        return value

    def names(self, key: str) -> list[str]:
        """A list of words; empty where there is none."""
        value = self._get(key, ())
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ModelError(f"{self.where}: {key} must be a list of words, not {value!r}")
        return [str(item) for item in value]

    def section(self, key: str) -> HfConfig:
        value = self._get(key, {})
        if not isinstance(value, Mapping):
            raise ModelError(f"{self.where}: {key} must be an object, not {value!r}")
        return HfConfig(value, self.where)

    def activation(self, key: str, default: str) -> Activation:
        name = self.text(key, default)
        try:
            return Activation({"swish": "silu"}.get(name, name))
        except ValueError:
            known = ", ".join(one.value for one in Activation)
            raise UnsupportedModel(
                f"{self.where}: {key} is {name!r}; eLLM implements {known}"
            ) from None

    def windows(
        self, layers: int, sliding: Sequence[bool], window: int | None
    ) -> tuple[int | None, ...]:
        """A window for each layer: `layer_types` where the config lists them, else `sliding`."""
        kinds = self._values.get("layer_types")
        if kinds is not None:
            if not isinstance(kinds, Sequence) or len(kinds) != layers:
                raise ModelError(
                    f"{self.where}: layer_types must list {layers} layers, not {kinds!r}"
                )
            unknown = set(kinds) - {"full_attention", "sliding_attention"}
            if unknown:
                raise UnsupportedModel(
                    f"{self.where}: layer_types has {', '.join(sorted(map(str, unknown)))}; "
                    "eLLM implements full_attention and sliding_attention"
                )
            sliding = [kind == "sliding_attention" for kind in kinds]
        return tuple(window if slides else None for slides in sliding)
