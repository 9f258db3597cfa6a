"""Everything that is measured for a profile, one after the other."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import ellm
from ellm.cli.profiling.device import Parts, make_device, step_run
from ellm.cli.profiling.hosting import Client, serving
from ellm.cli.profiling.served import ServerBench, ServerTimes
from ellm.core.bundled import MODELS
from ellm.llm.args import EngineArgs
from ellm.llm.build import prepare_device
from ellm.llm.profiling.copies import measure_copies
from ellm.llm.profiling.engine import MeasuredModel, measure_model, plain
from ellm.llm.profiling.fit import StepFit
from ellm.llm.profiling.grid import Point
from ellm.llm.profiling.operators import OperatorTimes
from ellm.llm.profiling.steps import Measured, Tick
from ellm.llm.step_times import device_name
from ellm.memory.budget import available_bytes, default_budget
from ellm.scheduling.coefficients import Coefficients
from ellm.scheduling.cost_fit import Accuracy, StepKind
from ellm.server.process import settle_process
from ellm.sim.device_fit import roofline_error
from ellm.sim.file_tier import FileTier
from ellm.sim.host import Host
from ellm.sim.profile import Modelled, Profile

# Seconds in which the bundled models are measured beside another, to tell a layer's overhead from
# a step's, and tokens of their largest step.
_PROBE_SECONDS = 4.0
_PROBE_SIZE = 128
_MAPPINGS = Path("/proc/sys/vm/max_map_count")


@dataclass(frozen=True, slots=True)
class Run:
    """One profile, whose steps are measured for about so many seconds."""

    args: EngineArgs
    seconds: float

    def profile(self) -> Profile:
        """Raises ModelError, ConfigError or BudgetError, saying what to do."""
        args, began = self.args, time.time()
        prepare_device(args.device, args.threads)
        budget = default_budget(available_bytes())
        with _bar("steps") as tick:
            model = measure_model(args, self.seconds, tick, ready=settle_process)
        steps = StepFit.of(model.steps)
        runs = {model.name: step_run(model)}
        runs |= {name: step_run(self._probe(name)) for name in MODELS if name != args.model}
        server = self._serve(model, steps)
        blueprint = model.blueprint
        operators = OperatorTimes.of(blueprint.spec, blueprint.dtype, args.device)
        parts = Parts(args.device, torch.get_num_threads(), operators, steps.coefficients, server)
        device = make_device(parts, list(runs.values()))
        model.leave(StepFit.plain(model.steps).coefficients)
        errors = {name: round(roofline_error(device, run), 3) for name, run in runs.items()}
        own = runs[model.name]
        return Profile(
            model=Modelled.of(own.transformer, own.formats),
            device=parts.served(device),
            host=self._host(budget, model) if args.device == "cpu" else None,
            coefficients=steps.coefficients,
            serving=Coefficients.even(step=server.step, sequence=server.sequence),
            made=_made(model, time.time() - began) | {"roofline_error": errors},
            accuracy=_accuracy(steps, model.steps),
            steps=[_row(steps, each) for each in model.steps],
            decoding=server.decoding,
            launched=steps.launched,
        )

    def _probe(self, name: str) -> MeasuredModel:
        """Small steps of a bundled model, as the same machine computes them."""
        own = EngineArgs(model=name)
        args = replace(
            self.args,
            model=name,
            tokenizer=own.tokenizer,
            max_model_len=own.max_model_len,
            memory=own.memory,
            chunk_bytes=own.chunk_bytes,
        )
        with _bar(f"steps of {name}") as tick:
            return measure_model(args, _PROBE_SECONDS, tick, _small)

    def _serve(self, model: MeasuredModel, steps: StepFit) -> ServerTimes:
        spec, limits = model.blueprint.spec, model.blueprint.limits
        with _bar("requests") as tick, serving(plain(self.args)) as url, Client(url) as client:
            bench = ServerBench(client, steps, spec.vocab_size, self.args.seed, tick)
            return bench.measure(limits.max_num_seqs, limits.max_model_len)

    def _host(self, budget: int, model: MeasuredModel) -> Host:
        tier = None
        if self.args.kv_offloading_size:
            copies = measure_copies(self.args.kv_offloading_dir)
            tier = FileTier(copies.down, copies.up)
        native = model.kernels.startswith("native")
        return Host(
            budget=budget,
            mappings=int(_MAPPINGS.read_text()),
            threads=torch.get_num_threads() if native else None,
            tier=tier,
        )


def _small(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if point.size <= _PROBE_SIZE and point.held <= 4096]


def _made(model: MeasuredModel, seconds: float) -> dict[str, Any]:
    """When, where and with what."""
    args, limits = model.blueprint.args, model.blueprint.limits
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "ellm": ellm.__version__,
        "torch": version("torch"),
        "processor": device_name(args.device),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "kernels": model.kernels,
        "kv_layout": args.memory_config.layout.value,
        "block_size": args.block_size,
        "chunk_bytes": model.chunk_bytes,
        "max_model_len": limits.max_model_len,
        "max_num_seqs": limits.max_num_seqs,
        "measurements": sum(len(each.steps) for each in model.steps),
        "seconds": round(seconds, 1),
    }


def _accuracy(steps: StepFit, measured: Sequence[Measured]) -> dict[str, Accuracy]:
    found: dict[str, list[float]] = {kind.value: [] for kind in StepKind}
    for each in measured:
        point = each.point
        kind = StepKind.MIXED if point.prompts else StepKind.DECODE
        if not point.decoding:
            kind = StepKind.PROMPT
        found[kind.value].append(abs(steps.error(each)))
    return {
        kind: Accuracy(len(errors), sum(errors) / len(errors), max(errors))
        for kind, errors in found.items()
        if errors
    }


def _row(steps: StepFit, measured: Measured) -> list[float]:
    return [*measured.load, float(f"{measured.lasts:.4g}"), round(steps.error(measured), 4)]


@contextmanager
def _bar(title: str) -> Iterator[Tick]:
    """Visits made, of those there will be at least; where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(f"measuring {title}", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
