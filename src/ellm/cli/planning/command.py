"""`ellm plan`: how to divide a model over devices, found without them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ellm.cli.engine_options import takes_engine_args
from ellm.cli.grouping import grouped
from ellm.cli.planning import options as own
from ellm.cli.planning.table import count_line, rows
from ellm.cli.planning.written import write
from ellm.cli.simulation import options as flags
from ellm.cli.simulation.extensions import load_extensions
from ellm.cli.simulation.output import require_writable
from ellm.cli.simulation.setting import UNUSED, formats_of, require_few, require_memory
from ellm.cli.simulation.workload import Wanted
from ellm.core.errors import ConfigError
from ellm.core.objectives import Objectives
from ellm.llm.args import EngineArgs
from ellm.planner.case import Case
from ellm.planner.find import find_plan
from ellm.planner.objective import Floor, Objective, Wish
from ellm.planner.refusals import require_reached
from ellm.planner.search import Found, Progress
from ellm.planner.verdict import gain, reason
from ellm.planner.workers import Workers
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.cluster import Dispatch
from ellm.sim.devices.known import find_device
from ellm.sim.profile import is_profile
from ellm.sim.workload.item import Item


@takes_engine_args(without=(*UNUSED, "max_num_queued_reqs"))
@grouped(Wanted)
def plan(
    args: EngineArgs,
    model: flags.ModelName,
    device: own.DeviceName,
    wanted: Wanted,
    max_gpus: own.MaxGpus = None,
    objective: own.ObjectiveName = None,
    min_goodput: own.MinGoodput = None,
    dtype: flags.WeightFormat = "auto",
    kv_cache_dtype: flags.KvFormat = "auto",
    dispatch: flags.DispatchName = Dispatch.LEAST_LOADED,
    extension: flags.Extension = None,
    jobs: own.Jobs = None,
    thorough: own.Thorough = False,
    output: own.Output = Path("plan"),
) -> int:
    """Find the best way to divide a model over devices.  Those worth it are simulated."""
    began = time.perf_counter()
    require_writable(output)
    files = tuple(extension or ())
    load_extensions(files)
    wish = wish_of(args, objective, min_goodput)
    if is_profile(device):
        raise ConfigError(
            f"{device} is a profile of one machine, and plans are for devices that are joined: "
            "name a device of the catalogue as H100, or a .toml"
        )
    require_memory(find_device(device), args.memory_config)
    if args.max_model_len == 0:
        raise ConfigError(
            "--max-model-len auto: the longest is another for each plan; say a number"
        )
    context = args.limits(find_transformer(model).max_positions).max_model_len
    items = wanted.items(context, args.seed)
    make = partial(make_case, args, model, device, (dtype, kv_cache_dtype), files, items, dispatch)
    case = make()
    most = case.device.per_node if max_gpus is None else max_gpus
    require_few(most)
    with Workers(make, jobs) as workers, _bar() as progress:
        found = find_plan(case, wish, workers, most, thorough=thorough, progress=progress)
    seconds = time.perf_counter() - began
    title = f"{case.transformer.name} on up to {most} x {case.device.name}"
    print(f"{title}: {len(items)} requests")
    tell(found, case, wish)
    print(f"{'found in':<12}{seconds:.1f} s")
    require_reached(found, wish, case.transformer)
    write(found, case, wish, output, title)
    return 0


def wish_of(args: EngineArgs, objective: Objective | None, min_goodput: str | None) -> Wish:
    """Raises ConfigError for flags that contradict each other."""
    assert not isinstance(args.ttft_slo, str)
    assert not isinstance(args.tpot_slo, str)
    slo = Objectives(ttft=args.ttft_slo, tpot=args.tpot_slo)
    floor = None if min_goodput is None else Floor.parse(min_goodput)
    if objective is None:
        judged = slo.stated or floor is not None
        objective = Objective.GOODPUT if judged else Objective.THROUGHPUT
    return Wish(objective, slo, floor)


def make_case(
    args: EngineArgs,
    model: str,
    device: str,
    formats: tuple[str, str],
    extensions: Sequence[Path],
    items: Sequence[Item],
    dispatch: Dispatch,
) -> Case:
    """In this process or in another: what is found by name need not travel."""
    load_extensions(extensions)
    transformer = find_transformer(model)
    limits = args.limits(transformer.max_positions)
    return Case(
        transformer=transformer,
        device=find_device(device),
        formats=formats_of(*formats, transformer),
        memory=args.memory_config,
        limits=limits,
        items=items,
        slo=Objectives(ttft=limits.ttft_slo, tpot=limits.tpot_slo),
        dispatch=dispatch,
        seed=args.seed,
    )


def tell(found: Found, case: Case, wish: Wish) -> None:
    """The table, and what it says in words."""
    print(count_line(found.counts))
    print()
    print("\n".join(rows(found, case.transformer, wish)))
    print()
    print(f"{'best':<12}{found.best.plan.describe(case.transformer)}")
    if found.second is not None:
        name = found.second.plan.describe(case.transformer)
        print(f"{'runner-up':<12}{name}: {reason(case, wish, found.best, found.second)}")
    if found.usual is not None:
        name = found.usual.plan.describe(case.transformer)
        print(f"{'heuristic':<12}{name}: the best has {gain(wish, found.best, found.usual)}")


@contextmanager
def _bar() -> Iterator[Progress]:
    """Simulations that have ended; where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    console = Console(file=sys.stderr)
    columns = (TextColumn("simulating plans"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("", total=None)
        yield lambda done, most: bars.update(task, completed=done, total=most)
