"""`ellm simulate`: what users would feel, without the devices."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ellm.cli.engine_options import takes_engine_args
from ellm.cli.grouping import grouped
from ellm.cli.simulation import options as flags
from ellm.cli.simulation.extensions import load_extensions
from ellm.cli.simulation.objectives import require_possible
from ellm.cli.simulation.output import require_writable
from ellm.cli.simulation.plots import draw
from ellm.cli.simulation.setting import UNUSED, Division, deploy, formats_of
from ellm.cli.simulation.table import lines
from ellm.cli.simulation.workload import Wanted
from ellm.core.errors import ConfigError
from ellm.core.objectives import Objectives
from ellm.llm.args import EngineArgs
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.cluster import Dispatch, Progress
from ellm.sim.scenario import Outcome, Scenario
from ellm.sim.scenario import simulate as run

_BAR_SECONDS = 0.1


@takes_engine_args(without=UNUSED)
@grouped(Wanted, Division)
def simulate(
    args: EngineArgs,
    model: flags.ModelName,
    device: flags.DeviceName,
    wanted: Wanted,
    division: Division,
    dtype: flags.WeightFormat = "auto",
    kv_cache_dtype: flags.KvFormat = "auto",
    dispatch: flags.DispatchName = Dispatch.LEAST_LOADED,
    extension: flags.Extension = None,
    output: flags.Output = Path("simulation"),
) -> int:
    """Serve a trace in virtual time, on any device.  The engine is the real one."""
    require_writable(output)
    load_extensions(extension or ())
    transformer = find_transformer(model)
    limits = args.limits(transformer.max_positions)
    formats, plan = formats_of(dtype, kv_cache_dtype, transformer), division.plan(transformer)
    deployment = deploy(device, transformer, formats, plan, args.memory_config, limits)
    if args.max_model_len == 0:
        deployment = deployment.with_longest_context()
    scenario = Scenario(
        deployment=deployment,
        items=wanted.items(deployment.limits.max_model_len, args.seed),
        wished=Objectives(ttft=limits.ttft_slo, tpot=limits.tpot_slo),
        dispatch=dispatch,
        seed=args.seed,
    )
    require_possible(deployment, scenario.items, scenario.wished)
    how = deployment.plan.describe(transformer)
    title = f"{transformer.name}, {how}, {deployment.device.name}"
    print(f"{title}: {len(scenario.items)} requests")
    began = time.perf_counter()
    with _bar(len(scenario.items)) as progress:
        outcome = run(scenario, progress)
    _tell(outcome, time.perf_counter() - began)
    _write(outcome, scenario, output, title)
    return 0


def _tell(outcome: Outcome, seconds: float) -> None:
    print("\n".join(lines(outcome.report)))
    a_step = 1e6 * seconds / max(1, outcome.report.steps)
    print(f"{'simulated in':<30}{seconds:.1f} s, {a_step:.0f} us a step")


def _write(outcome: Outcome, scenario: Scenario, folder: Path, title: str) -> None:
    """The report as JSON, and plots where they can be drawn; says where."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "report.json"
        file.write_text(json.dumps(outcome.report.as_json(), indent=1) + "\n", encoding="utf-8")
        print(f"\nreport  {file}")
        for file in draw(outcome, scenario.wished, folder, title):
            print(f"plot    {file}")
    except OSError as error:
        raise ConfigError(f"cannot write to --output {folder}: {error.strerror}") from error
    except ConfigError as error:
        print(f"warning: {error}", file=sys.stderr)


@contextmanager
def _bar(total: int) -> Iterator[Progress]:
    """Requests that have ended, and the simulated time; where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (
        TextColumn("simulating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[now]:.1f} s"),
    )
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("", total=total, now=0.0)
        shown = 0.0

        def advance(now: float, ended: int) -> None:
            nonlocal shown
            if time.monotonic() - shown > _BAR_SECONDS:  # telling it takes as long as a step
                shown = time.monotonic()
                bars.update(task, completed=ended, now=now)

        yield advance
