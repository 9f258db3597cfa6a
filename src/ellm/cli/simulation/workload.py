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
DEFAULT_LENGTHS = (1024, 256)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which requests, and when: flags of whatever serves some."""

    trace: flags.TraceName = None
    lengths: flags.LengthsName = None
    input_len: flags.InputLen = None
    output_len: flags.OutputLen = None
    num_prompts: flags.NumPrompts = None
    rate: flags.Rate = None
    burstiness: flags.Burstiness = None
    rate_scale: flags.RateScale = None
    scale_lengths: flags.ScaleLengths = 1.0
    drop_longer: flags.DropLonger = False

    def items(self, context: int | None, seed: int) -> Sequence[Item]:
        """In order of arrival.  Raises ConfigError for flags that contradict each other."""
        self._check()
        if self.lengths is None:
            return self._recorded(context, seed)
        count = DEFAULT_COUNT if self.num_prompts is None else self.num_prompts
        times = arrivals(count, self.rate or 1.0, seed, self.burstiness or 1.0)
        return self._that_fit(timed(self._made(count, seed), times), context)

    def _check(self) -> None:
        for flag, value in (
            ("--rate", self.rate),
            ("--rate-scale", self.rate_scale),
            ("--burstiness", self.burstiness),
            ("--scale-lengths", self.scale_lengths),
        ):
            if value is not None and not 0 < value < math.inf:
                wanted = "above 0" if value <= 0 else "finite"
                raise ConfigError(f"{flag} must be {wanted}, not {value}")
        for flag, count in (
            ("--num-prompts", self.num_prompts),
            ("--input-len", self.input_len),
            ("--output-len", self.output_len),
        ):
            if count is not None and count < 1:
                raise ConfigError(f"{flag} must be at least 1, not {count}")
        self._check_together()

    def _check_together(self) -> None:
        """Raise ConfigError for a flag that would change nothing beside the others."""
        recorded = self.lengths is None
        lengths = {"--input-len": self.input_len, "--output-len": self.output_len}
        stray = [flag for flag, value in lengths.items() if value is not None]
        if self.trace is not None and not recorded:
            raise ConfigError("--trace and --lengths each say what is asked: give one")
        if stray and self.lengths is not flags.Lengths.FIXED:
            raise ConfigError(
                f"{' and '.join(stray)} would change nothing: a trace or a distribution says how "
                "long requests are; add --lengths fixed, or shorten them with --scale-lengths"
            )
        if self.rate is not None and self.rate_scale is not None:
            raise ConfigError(
                "--rate-scale keeps a trace's own times and --rate replaces them: give one"
            )
        if self.rate_scale is not None and not recorded:
            raise ConfigError(
                "--rate-scale is for a trace's own times, and --lengths has none: give --rate"
            )
        if self.burstiness is not None and recorded and self.rate is None:
            raise ConfigError(
                "--burstiness is of arrivals at a --rate, and without one a trace keeps its own "
                "times: give --rate too"
            )

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
        if self.num_prompts is not None and len(trace.items) < self.num_prompts:
            print(
                f"warning: {self.trace or DEFAULT_TRACE} has only {len(trace.items)} requests of "
                f"the {self.num_prompts} of --num-prompts",
                file=sys.stderr,
            )
        if (models := len({item.model for item in trace.items})) > 1:
            print(
                f"warning: {self.trace} asks {models} models: all its requests go to this one",
                file=sys.stderr,
            )
        if self.rate is not None:
            times = arrivals(len(trace.items), self.rate, seed, self.burstiness or 1.0)
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
                "tokens: allow more with --max-model-len, shorten them with --scale-lengths, or "
                "leave them out with --drop-longer"
            )
        return fitting

    def _made(self, count: int, seed: int) -> list[Item]:
        if self.lengths is flags.Lengths.FIXED:
            prompt, output = DEFAULT_LENGTHS
            items = fixed(count, self.input_len or prompt, self.output_len or output)
        else:
            like = SHAREGPT if self.lengths is flags.Lengths.SHAREGPT else ALPACA
            items = drawn(count, *like, seed)
        return [_scaled(item, self.scale_lengths) for item in items]


def _scaled(item: Item, factor: float) -> Item:
    prompt = max(1, round(item.prompt_tokens * factor))
    return replace(
        item, prompt_tokens=prompt, output_tokens=max(1, round(item.output_tokens * factor))
    )
