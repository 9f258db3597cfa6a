"""Which requests to serve, and when they come."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ellm.cli.simulation import options as flags
from ellm.core.errors import ConfigError
from ellm.sim.workload.arrivals import arrivals, evened, hastened, timed
from ellm.sim.workload.item import Item
from ellm.sim.workload.lengths import ALPACA, SHAREGPT, drawn, fixed
from ellm.sim.workload.traces import read_trace

DEFAULT_COUNT = 500
DEFAULT_TRACE = "chat"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which requests, and when: flags of whatever serves some."""

    trace: flags.TraceName = None
    lengths: flags.LengthsName = None
    input_len: flags.InputLen = 1024
    output_len: flags.OutputLen = 256
    num_prompts: flags.NumPrompts = None
    rate: flags.Rate = None
    burstiness: flags.Burstiness = 1.0
    rate_scale: flags.RateScale = None
    scale_lengths: flags.ScaleLengths = 1.0
    drop_longer: flags.DropLonger = False

    def items(self, context: int | None, seed: int) -> Sequence[Item]:
        """In order of arrival.  Raises ConfigError for flags that contradict each other."""
        self._check()
        if self.lengths is None:
            return self._recorded(context, seed)
        count = DEFAULT_COUNT if self.num_prompts is None else self.num_prompts
        times = arrivals(count, self.rate or 1.0, seed, self.burstiness)
        return self._that_fit(timed(self._made(count, seed), times), context)

    def _check(self) -> None:
        if self.trace is not None and self.lengths is not None:
            raise ConfigError("--trace and --lengths each say what is asked: give one")
        if self.rate is not None and self.rate_scale is not None:
            raise ConfigError(
                "--rate-scale keeps a trace's own times and --rate replaces them: give one"
            )
        for flag, value in (
            ("--rate", self.rate),
            ("--rate-scale", self.rate_scale),
            ("--burstiness", self.burstiness),
            ("--scale-lengths", self.scale_lengths),
        ):
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{flag} must be above 0, not {value}")
        if min(self.num_prompts or 1, self.input_len, self.output_len) < 1:
            raise ConfigError("--num-prompts, --input-len and --output-len must be at least 1")

    def _recorded(self, context: int | None, seed: int) -> Sequence[Item]:
        trace = read_trace(
            self.trace or DEFAULT_TRACE,
            self.num_prompts,
            scale=self.scale_lengths,
            context=context,
            drop_longer=self.drop_longer,
        )
        for warning in trace.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        if (models := len({item.model for item in trace.items})) > 1:
            print(
                f"warning: {self.trace} asks {models} models: all its requests go to this one",
                file=sys.stderr,
            )
        if self.rate is not None:
            times = arrivals(len(trace.items), self.rate, seed, self.burstiness)
            return timed(trace.items, times)
        if not trace.timed:
            raise ConfigError(f"{self.trace} has no times: say how many a second with --rate")
        return hastened(evened(trace.items), self.rate_scale or 1.0)

    def _that_fit(self, items: Sequence[Item], context: int | None) -> Sequence[Item]:
        """All of them, or those left by `drop_longer`."""
        fitting = [
            item
            for item in items
            if context is None or item.prompt_tokens + item.output_tokens <= context
        ]
        longer = len(items) - len(fitting)
        if longer and not (self.drop_longer and fitting):
            raise ConfigError(
                f"{longer} of {len(items)} requests are longer than the context of {context} "
                "tokens: allow more with --max-model-len, scale lengths down, or drop longer ones"
            )
        return fitting

    def _made(self, count: int, seed: int) -> list[Item]:
        if self.lengths is flags.Lengths.FIXED:
            items = fixed(count, self.input_len, self.output_len)
        else:
            like = SHAREGPT if self.lengths is flags.Lengths.SHAREGPT else ALPACA
            items = drawn(count, *like, seed)
        return [_scaled(item, self.scale_lengths) for item in items]


def _scaled(item: Item, factor: float) -> Item:
    prompt = max(1, round(item.prompt_tokens * factor))
    return replace(
        item, prompt_tokens=prompt, output_tokens=max(1, round(item.output_tokens * factor))
    )
