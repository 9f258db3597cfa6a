"""Tokens a second of prefill, of one sequence that decodes, and of several requests at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines import Engine
from scenario import Prompt, Scenario
from setting import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput(Scenario):
    """Lengths in tokens: of the long prompt, of the others, and of the two kinds of answers."""

    prefill: int = 1024
    prompt: int = 128
    decode: int = 128
    output: int = 128
    concurrency: int = 16

    @property
    def figures(self) -> dict[str, str]:
        return {
            "prefill": f"prefill tokens/s at {self.prefill}",
            "decode": "decode tokens/s at batch 1",
            "concurrent": f"output tokens/s, {self.concurrency} x {self.prompt}+{self.output}",
        }

    def setting(self, model: str, threads: int) -> Setting:
        longest = max(self.prefill, self.prompt + max(self.decode, self.output))
        return Setting(
            model=model, threads=threads, context=longest + 256, sequences=self.concurrency
        )

    def shares(
        self, figures: Mapping[str, Any], limits: Mapping[str, Any] | None
    ) -> dict[str, float]:
        """Products with all layers for each token of a prompt; all weights for each that decodes.

        Attention, and what is read beside weights, are not counted.
        """
        if limits is None:
            return {}
        model = self.model
        layers = model.parameters - model.vocab * model.hidden * (1 if model.tied else 2)
        read = model.parameters - (0 if model.tied else model.vocab * model.hidden)
        return {
            "prefill": figures["prefill"] * 2 * layers / limits["arithmetic"],
            "decode": figures["decode"] * 2 * read / limits["read"],
        }

    def warm_up(self, engine: Engine, prompt: Prompt) -> None:
        engine.seconds([prompt(self.prefill)], 2)
        engine.seconds([prompt(self.prompt) for _ in range(self.concurrency)], 4)

    def trial(self, engine: Engine, prompt: Prompt) -> dict[str, float]:
        prefill = engine.seconds([prompt(self.prefill)], 1)
        one = [prompt(self.prompt)]
        first, all_of_them = engine.seconds(one, 1), engine.seconds(one, 1 + self.decode)
        batch = [prompt(self.prompt) for _ in range(self.concurrency)]
        return {
            "prefill": self.prefill / prefill,
            "decode": self.decode / (all_of_them - first),
            "concurrent": self.concurrency * self.output / engine.seconds(batch, self.output),
        }
