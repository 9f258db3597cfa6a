"""The verbs of `ellm bench`."""

from __future__ import annotations

import asyncio
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from ellm.cli.bench import offline, report
from ellm.cli.bench.client import Endpoint, Target
from ellm.cli.bench.load import apply_load, find_model
from ellm.cli.bench.options import (
    BaseUrl,
    BatchSize,
    Burstiness,
    Dataset,
    DatasetName,
    DatasetPath,
    EndpointName,
    Goodput,
    Host,
    IgnoreEos,
    InputLen,
    MaxConcurrency,
    MaxRequests,
    Models,
    MoreGoodput,
    NumIters,
    NumItersWarmup,
    NumPrompts,
    OutputJson,
    OutputLen,
    Port,
    RateScale,
    RequestRate,
    ScaleLengths,
    Seed,
)
from ellm.cli.bench.question import questions
from ellm.cli.bench.statistics import parse_objectives, summarize
from ellm.cli.engine_options import takes_engine_args
from ellm.cli.progress import counting_bar
from ellm.cli.sampling_options import Temperature
from ellm.cli.serve import ApiKey
from ellm.core.errors import ConfigError
from ellm.llm.args import EngineArgs
from ellm.sim.workload.arrivals import arrivals, hastened, timed
from ellm.sim.workload.item import Item
from ellm.sim.workload.lengths import SHAREGPT, drawn, fixed
from ellm.sim.workload.traces import Trace, read_trace


def group() -> typer.Typer:
    """`ellm bench ...`."""
    app = typer.Typer(
        help="Measure latency, throughput, or a running server.", no_args_is_help=True
    )
    app.command("latency")(latency)
    app.command("throughput")(throughput)
    app.command("serve")(serve)
    return app


@takes_engine_args()
def latency(
    args: EngineArgs,
    input_len: InputLen = 32,
    output_len: OutputLen = 128,
    batch_size: BatchSize = 8,
    num_iters_warmup: NumItersWarmup = 2,
    num_iters: NumIters = 10,
    output_json: OutputJson = None,
) -> int:
    """Time one batch of prompts.  They are random, and there is no server."""
    items = questions(fixed(batch_size, input_len, output_len), args.seed)
    figures = offline.latency(args, items, num_iters_warmup, num_iters)
    return _report({"input_len": input_len, "output_len": output_len} | figures, output_json)


@takes_engine_args()
def throughput(
    args: EngineArgs,
    input_len: InputLen = 128,
    output_len: OutputLen = 128,
    num_prompts: NumPrompts = 64,
    output_json: OutputJson = None,
) -> int:
    """Count tokens per second.  Many random prompts at once, and no server."""
    items = questions(fixed(num_prompts, input_len, output_len), args.seed)
    figures = offline.throughput(args, items)
    return _report({"input_len": input_len, "output_len": output_len} | figures, output_json)


def _report(figures: dict[str, Any], output_json: Path | None) -> int:
    for name, value in figures.items():
        if not isinstance(value, list):
            print(f"{name.replace('_', ' '):<32}{value:>14.6g}")
    if output_json is not None:
        report.write_json(output_json, figures)
    return 0


def serve(
    base_url: BaseUrl = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    model: Models = None,
    endpoint: EndpointName = Endpoint.COMPLETIONS,
    api_key: ApiKey = None,
    dataset_name: DatasetName = Dataset.RANDOM,
    dataset_path: DatasetPath = None,
    num_prompts: MaxRequests = 100,
    input_len: InputLen = 128,
    output_len: OutputLen = 128,
    scale_lengths: ScaleLengths = None,
    rate_scale: RateScale = None,
    request_rate: RequestRate = None,
    burstiness: Burstiness = 1.0,
    max_concurrency: MaxConcurrency = None,
    ignore_eos: IgnoreEos = False,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    goodput: Goodput = None,
    more_goodput: MoreGoodput = None,
    output_json: OutputJson = None,
) -> int:
    """Put load on a server: latencies, throughput, goodput."""
    if more_goodput and not goodput:
        raise ConfigError(f"unexpected argument {more_goodput[0]!r}")
    objectives = parse_objectives([*(goodput or ()), *(more_goodput or ())])
    _check_scales(dataset_name, scale_lengths, rate_scale, request_rate)
    lengths = (input_len, output_len)
    trace = _workload(dataset_name, dataset_path, num_prompts, lengths, scale_lengths or 1.0, seed)
    due = _schedule(trace, dataset_name, request_rate, rate_scale, burstiness, seed)
    items = questions(due, seed)
    if max_concurrency is not None and max_concurrency < 1:
        raise ConfigError(f"--max-concurrency must be at least 1, not {max_concurrency}")

    async def run() -> int:
        url = base_url or f"http://{host}:{port}"
        names = tuple(model or [await find_model(url, api_key)])
        target = Target(url, names, endpoint, ignore_eos, temperature, api_key)
        with counting_bar("requests", len(items)) as tick:
            outcomes, duration = await apply_load(target, items, max_concurrency, tick)
        summary = summarize(outcomes, duration, objectives)
        print("\n".join(report.lines(summary)))
        if output_json is not None:
            asked = {
                "model": list(names),
                "dataset": str(dataset_path or dataset_name.value),
                "scale_lengths": scale_lengths,
                "rate_scale": rate_scale,
                "request_rate": request_rate,
                "objectives": objectives,
                "seed": seed,
            }
            each = [asdict(outcome) for outcome in outcomes]
            report.write_json(output_json, asked | summary.as_json() | {"requests": each})
        return 0 if summary.completed else 1

    return asyncio.run(run())


def _check_scales(
    dataset: Dataset, scale: float | None, rate_scale: float | None, rate: float | None
) -> None:
    for flag, value in (("--scale-lengths", scale), ("--rate-scale", rate_scale)):
        if value is not None and dataset is not Dataset.TRACE:
            raise ConfigError(f"{flag} changes a trace: give one with --dataset-name trace")
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{flag} must be above 0, not {value}")
    if rate_scale is not None and rate is not None:
        raise ConfigError(
            "--rate-scale keeps a trace's own times and --request-rate replaces them: give one"
        )


def _workload(
    dataset: Dataset,
    path: Path | None,
    count: int,
    lengths: tuple[int, int],
    scale: float,
    seed: int,
) -> Trace:
    if count < 1 or min(lengths) < 1:
        raise ConfigError("--num-prompts, --input-len and --output-len must be at least 1")
    if (dataset is Dataset.TRACE) != (path is not None):
        raise ConfigError("--dataset-name trace and --dataset-path belong together")
    if path is not None:
        trace = read_trace(path, count, scale=scale)
        for warning in trace.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        return trace
    sharegpt = dataset is Dataset.SHAREGPT_LENGTHS
    return Trace(drawn(count, *SHAREGPT, seed) if sharegpt else fixed(count, *lengths), timed=False)


def _schedule(
    trace: Trace,
    dataset: Dataset,
    rate: float | None,
    rate_scale: float | None,
    burstiness: float,
    seed: int,
) -> list[Item]:
    if rate_scale is not None and not trace.timed:
        raise ConfigError("this trace has no times to scale: give --request-rate instead")
    if rate is None and dataset is Dataset.TRACE:
        return hastened(trace.items, rate_scale or 1.0)
    rate = math.inf if rate is None else rate
    if not rate > 0 or not burstiness > 0:
        raise ConfigError("--request-rate and --burstiness must be above 0")
    return timed(trace.items, arrivals(len(trace.items), rate, seed, burstiness))
