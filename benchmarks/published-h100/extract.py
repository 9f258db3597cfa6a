"""Write measured.json: every run in a checkout of apex_plus, one cell a line.

    APEX_HOME=path/to/apex_plus python benchmarks/published-h100/extract.py

The figures printed there are quotients of a server's counters, and some servers answered several
traces in turn: what came before is taken off here. README.md says what each figure means.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from apex import (
    COMMIT,
    MIXTURE,
    NANOSECONDS,
    RESULT,
    Answers,
    answers,
    home,
    mixtures,
    rate,
    results,
)
from servers import mixture, setting

HERE = Path(__file__).resolve().parent
# Servers that were not restarted between traces, and the order in which they were sent.
SCALED = ("lmsys_05", "creation_05", "summarization_05")
QUARTERED = (
    "lmsys_05",
    "lmsys_025",
    "summarization_05",
    "summarization_025",
    "creation_05",
    "creation_025",
)
CHAINS = {
    ("llama", "4TP"): SCALED,
    ("mistral", "4TP"): SCALED,
    ("mistral", "2TP"): SCALED,
} | {("mistral", f"4DP2TP_fp8_{replica}"): QUARTERED for replica in range(4)}
# Seconds by which the counters may miss one another: they were added up in another order.
TOLERANCE = 1e-3
PLAN = re.compile(r"(?:(?P<data>\d)DP)?(?P<tensor>\d)TP")

Key = tuple[str, str, str]


def spent(chain: list[Answers]) -> tuple[float, float]:
    """Seconds to first tokens, and from there to last ones, of all requests of all runs.

    `chain` is what one server answered, in order. Raises SystemExit where the two do not make up
    the latency that its last run printed: the chain is not what that server answered, then.
    """
    last = chain[-1]
    first = last.ttft * sum(len(run.served) for run in chain)
    after = last.tpot * sum(one.output for run in chain for one in run.served)
    if abs(first + after - last.latency) > TOLERANCE:
        raise SystemExit(f"{last.source}: {first} s and {after} s are not {last.latency} s")
    return first, after


def figures(runs: list[tuple[Answers, float, float]]) -> dict[str, Any]:
    """Means over all requests of all replicas."""
    served = [one for run, _, _ in runs for one in run.served]
    first, after = sum(run[1] for run in runs), sum(run[2] for run in runs)
    output = sum(one.output for one in served)
    arrivals = sum(rate(run.served) for run, _, _ in runs)
    return {
        **lengths([run for run, _, _ in runs]),
        "ttft_ms": round(1e3 * first / len(served), 4),
        "tpot_ms": round(1e3 * after / (output - len(served)), 5),
        "tpot_published_ms": round(1e3 * after / output, 5),
        "e2e_s": round((first + after) / len(served), 5),
        "concurrency_per_replica": round(arrivals * (first + after) / len(served) / len(runs), 4),
    }


def lengths(runs: list[Answers]) -> dict[str, Any]:
    """What was sent and what was served."""
    served = [one for run in runs for one in run.served]
    wanted = [one for run in runs for one in run.wanted]
    pairs = zip(wanted, served, strict=True)
    offsets = [one.offset for one in served]
    span = (max(offsets) - min(offsets)) / NANOSECONDS
    output = sum(one.output for one in served)
    return {
        "requests": len(served),
        "arrivals_per_s": round(sum(rate(run.served) for run in runs), 5),
        "arrival_span_s": round(span, 3),
        "prompt_tokens_mean": round(sum(one.prompt for one in served) / len(served), 3),
        "output_tokens_wanted_mean": round(sum(one.output for one in wanted) / len(wanted), 3),
        "output_tokens_mean": round(output / len(served), 3),
        "output_tokens_per_s_of_span": round(output / span, 3),
        "ended_early": sum(got.output < one.output for one, got in pairs),
    }


def runs_of(root: Path) -> dict[Key, list[tuple[Answers, float, float]]]:
    """Every readable run of every cell: family, load, and plan without the replica."""
    read: dict[Key, Answers] = {}
    for path in results(root):
        name = RESULT.fullmatch(path.name)
        assert name is not None, path
        read[name["family"], name["load"], name["plan"]] = answers(root, path)
    cells: dict[Key, list[tuple[Answers, float, float]]] = {}
    for (family, load, plan), run in read.items():
        chain = [read[family, one, plan] for one in (*before(family, load, plan), load)]
        first, after = spent(chain)
        if len(chain) > 1:
            earlier = spent(chain[:-1])
            first, after = first - earlier[0], after - earlier[1]
        cell = cells.setdefault((family, load, re.sub(r"_\d$", "", plan)), [])
        cell.append((run, first, after))
    return cells


def before(family: str, load: str, plan: str) -> tuple[str, ...]:
    """Loads that the server of a run had answered already."""
    order = CHAINS.get((family, plan), (load,))
    return order[: order.index(load)]


def cell(key: Key, runs: list[tuple[Answers, float, float]]) -> dict[str, Any]:
    """One cell with its setting, its means and those of every replica."""
    family, load, plan = key
    found = PLAN.match(plan)
    assert found is not None, plan
    replicas = []
    for run in runs:
        name = RESULT.fullmatch(Path(run[0].source).name)
        assert name is not None, run[0].source
        after = before(family, load, name["plan"])
        replicas.append({"source": run[0].source, "server_had_answered": after, **figures([run])})
    data = int(found["data"] or 1)
    return {
        "id": f"{family}-{load}-{plan.removesuffix('_fp8')}",
        **setting(family, load, plan),
        "plan": {"data": data, "tensor": int(found["tensor"]), "pipeline": 1},
        **workload(f"{family}/{load}"),
        "replicas_read": len(runs),
        **figures(runs),
        "replicas": replicas,
    }


def workload(trace: str) -> dict[str, Any]:
    """The trace and the rate after which it is named."""
    kind, _, digits = trace.partition("/")[2].partition("_")
    return {"trace": trace, "workload": kind, "nominal_rate_per_s": float(f"0.{digits[1:]}")}


def mixed(root: Path, path: Path) -> dict[str, Any]:
    """One cell of Mixtral by SGLang: its latency, and what it printed as TTFT."""
    name = MIXTURE.fullmatch(path.name)
    assert name is not None, path
    run = answers(root, path)
    return {
        "id": f"mixtral-{name['load']}-{name['plan'].removesuffix('_8')}8",
        **mixture(name["plan"]),
        **workload(f"mistral/{name['load']}"),
        **lengths([run]),
        "ttft_published_ms": round(1e3 * run.ttft, 4),
        "e2e_s": round(run.latency / len(run.served), 5),
        "source": run.source,
    }


def main() -> None:
    """Write all cells, those of vLLM first."""
    root = home()
    cells = [cell(key, runs) for key, runs in sorted(runs_of(root).items())]
    cells += [mixed(root, path) for path in mixtures(root)]
    lines = ",\n".join(json.dumps(one) for one in cells)
    head = f'{{"repository": "microsoft/apex_plus", "commit": "{COMMIT}", "cells": [\n'
    (HERE / "measured.json").write_text(f"{head}{lines}\n]}}\n", encoding="utf-8")
    print(f"{len(cells)} cells")


if __name__ == "__main__":
    main()
