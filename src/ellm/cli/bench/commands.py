"""The verbs of `ellm bench`."""

from __future__ import annotations

import asyncio
import math
import random
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
    Model,
    MoreGoodput,
    NumIters,
    NumItersWarmup,
    NumPrompts,
    OutputJson,
    OutputLen,
    Port,
    RequestRate,
    Seed,
)
from ellm.cli.bench.statistics import parse_objectives, summarize
from ellm.cli.bench.traces import read_trace
from ellm.cli.bench.workload import WorkItem, arrivals, fixed_lengths, sharegpt_lengths, timed
from ellm.cli.engine_options import takes_engine_args
from ellm.cli.progress import counting_bar
from ellm.cli.sampling_options import Temperature
from ellm.cli.serve import ApiKey
from ellm.core.errors import ConfigError
from ellm.llm.args import EngineArgs


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
    items = fixed_lengths(batch_size, input_len, output_len, args.seed)
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
    items = fixed_lengths(num_prompts, input_len, output_len, args.seed)
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
    model: Model = None,
    endpoint: EndpointName = Endpoint.COMPLETIONS,
    api_key: ApiKey = None,
    dataset_name: DatasetName = Dataset.RANDOM,
    dataset_path: DatasetPath = None,
    num_prompts: NumPrompts = 100,
    input_len: InputLen = 128,
    output_len: OutputLen = 128,
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
    items = _workload(dataset_name, dataset_path, num_prompts, input_len, output_len, seed)
    items = _schedule(items, dataset_name, request_rate, burstiness, seed)
    if max_concurrency is not None and max_concurrency < 1:
        raise ConfigError(f"--max-concurrency must be at least 1, not {max_concurrency}")

    async def run() -> int:
        url = base_url or f"http://{host}:{port}"
        name = model or await find_model(url, api_key)
        target = Target(url, name, endpoint, ignore_eos, temperature, api_key)
        with counting_bar("requests", len(items)) as tick:
            outcomes, duration = await apply_load(target, items, max_concurrency, tick)
        summary = summarize(outcomes, duration, objectives)
        print("\n".join(report.lines(summary)))
        if output_json is not None:
            run = {"model": name, "request_rate": request_rate, "seed": seed} | summary.as_json()
            each = [asdict(outcome) for outcome in outcomes]
            report.write_json(output_json, run | {"requests": each})
        return 0 if summary.completed else 1

    return asyncio.run(run())


def _workload(
    dataset: Dataset, path: Path | None, count: int, input_len: int, output_len: int, seed: int
) -> list[WorkItem]:
    if count < 1 or input_len < 1 or output_len < 1:
        raise ConfigError("--num-prompts, --input-len and --output-len must be at least 1")
    if (dataset is Dataset.TRACE) != (path is not None):
        raise ConfigError("--dataset-name trace and --dataset-path belong together")
    if path is not None:
        return read_trace(path, count, seed)
    if dataset is Dataset.SHAREGPT_LENGTHS:
        return sharegpt_lengths(count, seed)
    return fixed_lengths(count, input_len, output_len, seed)


def _schedule(
    items: list[WorkItem], dataset: Dataset, rate: float | None, burstiness: float, seed: int
) -> list[WorkItem]:
    if rate is None and dataset is Dataset.TRACE:
        return items
    rate = math.inf if rate is None else rate
    if not rate > 0 or not burstiness > 0:
        raise ConfigError("--request-rate and --burstiness must be above 0")
    return timed(items, arrivals(len(items), rate, burstiness, random.Random(seed)))
