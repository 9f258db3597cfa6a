"""What clients of a server see: tokens a second, and the wait for the first and for the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from engines import Engine
from scenario import Prompt, Scenario
from server import Server
from setting import Setting

from ellm.cli.bench.statistics import summarize


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming(Scenario):
    """`concurrency` requests sent at once, then one that is alone."""

    served: ClassVar[bool] = True
    prompt: int = 128
    output: int = 128
    concurrency: int = 16

    @property
    def figures(self) -> dict[str, str]:
        return {
            "rate": f"output tokens/s, {self.concurrency} x {self.prompt}+{self.output}",
            "ttft_p50": "first token, ms, median",
            "ttft_p99": "first token, ms, p99",
            "itl_p50": "between tokens, ms, median",
            "itl_p99": "between tokens, ms, p99",
            "alone_itl_p50": "between tokens, ms, median, alone",
        }

    def setting(self, model: str, threads: int) -> Setting:
        context = self.prompt + self.output + 256
        return Setting(model=model, threads=threads, context=context, sequences=self.concurrency)

    def warm_up(self, engine: Engine, prompt: Prompt) -> None:
        assert isinstance(engine, Server)
        engine.stream([prompt(self.prompt) for _ in range(self.concurrency)], 4)

    def trial(self, engine: Engine, prompt: Prompt) -> dict[str, float]:
        assert isinstance(engine, Server)
        batch = [prompt(self.prompt) for _ in range(self.concurrency)]
        outcomes, duration = engine.stream(batch, self.output)
        many = summarize(outcomes, duration, {})
        one = summarize(*engine.stream([prompt(self.prompt)], self.output), {})
        chunks = sum(1 + len(outcome.gaps) for outcome in outcomes)
        return {
            "rate": many.output_rate,
            "ttft_p50": many.ttft.median,
            "ttft_p99": many.ttft.p99,
            "itl_p50": many.itl.median,
            "itl_p99": many.itl.p99,
            "alone_ttft": one.ttft.median,
            "alone_itl_p50": one.itl.median,
            "alone_itl_p99": one.itl.p99,
            # Below 1 some tokens came together, and the times between are between those.
            "chunks_per_token": chunks / many.output_tokens,
        }
