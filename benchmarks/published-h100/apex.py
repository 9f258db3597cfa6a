"""What a checkout of microsoft/apex_plus holds: the traces it sent, and what came back.

The repository, at commit 8769096, is under the MIT licence. Requests of its `lmsys` traces are of
LMSYS-Chat-1M, which has terms of its own: only lengths and arrival times are read here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COMMIT = "8769096536a34e8b3010fd444021f13858663a93"
NANOSECONDS = 1_000_000_000
# A trace whose file is absent is what its quarters are when they are merged by arrival.
QUARTERS = 4
# How results are named, and what a server is called within them: MIXTURE is of Mixtral by SGLang.
RESULT = re.compile(r"(?P<family>llama|mistral)_(?P<load>[a-z]+_\d+)_validation_(?P<plan>.+)\.txt")
MIXTURE = re.compile(r"mistral_(?P<plan>[a-z]+_8)_(?P<load>[a-z]+_\d+)_validation\.txt")
SUMS = r"^(?:vLLm|sglang) {} sum: "
MEANS = r"^(?:vLLM|sglang) ?{}: "
TRACE_LINE = re.compile(r"Trace file: \.\./traces/(\S+)\.jsonl\n")
ANSWER = re.compile(r"(?P<prompt>-?\d+)?, output_len_diff = (?P<output>-?\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Request:
    """One request: tokens in, tokens out, and nanoseconds from the start at which it was sent."""

    prompt: int
    output: int
    offset: int


@dataclass(frozen=True, slots=True)
class Answers:
    """One result file: every request as it was served, and the counters of the server after it.

    `wanted` are the requests of the trace, `served` the same with the lengths that the server
    saw: a chat template has been put around prompts of `lmsys`, and an answer may end early.
    The three figures are in seconds as printed; `latency` is a sum, the others quotients of the
    server's counters since it started, which may have been before this trace. SGLang's `tpot` is
    not of tokens.
    """

    source: str
    wanted: tuple[Request, ...]
    served: tuple[Request, ...]
    ttft: float
    tpot: float
    latency: float


def home() -> Path:
    """The checkout named by APEX_HOME."""
    try:
        root = Path(os.environ["APEX_HOME"])
    except KeyError:
        raise SystemExit("APEX_HOME must name a checkout of microsoft/apex_plus") from None
    if not (root / "traces" / "llama").is_dir():
        raise SystemExit(f"APEX_HOME is {root}, which has no traces/llama")
    return root


def trace(root: Path, name: str) -> tuple[Request, ...]:
    """The requests of `name`, as in llama/lmsys_05, by arrival.

    Raises SystemExit where the file is absent and cannot be put together from its parts.
    """
    path = root / "traces" / f"{name}.jsonl"
    if path.is_file():
        return tuple(sorted(_lines(path), key=lambda request: request.offset))
    return tuple(sorted(_merged(root, name), key=lambda request: request.offset))


def traces(root: Path) -> list[str]:
    """Names of all traces that the checkout has or allows to be put together."""
    found = {
        f"{path.parent.name}/{path.stem}" for path in (root / "traces").glob("[lm]*/*_*.jsonl")
    }
    for name in tuple(found):
        if name.endswith("_4DP2TP_0"):
            whole = name.removesuffix("_4DP2TP_0")
            found |= {f"{whole}_2DP4TP_0", f"{whole}_2DP4TP_1"}
            # The splits of llama/creation are of other requests than the whole.
            if not whole.startswith("llama/creation"):
                found.add(whole)
    return sorted(found)


def results(root: Path) -> list[Path]:
    """Result files of vLLM that are not empty, by name."""
    folder = root / "vllm" / "results"
    return sorted(path for path in folder.glob("*_validation_*.txt") if path.stat().st_size)


def mixtures(root: Path) -> list[Path]:
    """Result files of SGLang, by name."""
    return sorted((root / "sglang" / "results").glob("*_validation.txt"))


def answers(root: Path, path: Path) -> Answers:
    """Read one result file beside the trace that it names.

    The header was written over the first answer, whose difference of prompts may be lost: it is
    what the printed total leaves. Raises SystemExit where a sum is not what the file says.
    """
    text = path.read_text(encoding="utf-8")
    header = TRACE_LINE.match(text)
    assert header is not None, path
    wanted = trace(root, header.group(1))
    found = list(ANSWER.finditer(text))
    outputs = [int(match["output"]) for match in found]
    prompts = [int(match["prompt"] or 0) for match in found]
    prompts[0] = int(_figure(text, r"^Total prompt len difference.*: ")) - sum(prompts[1:])
    if len(found) != len(wanted):
        raise SystemExit(f"{path}: {len(found)} answers, {len(wanted)} requests in its trace")
    served = tuple(
        Request(request.prompt + longer, request.output + fewer, request.offset)
        for request, longer, fewer in zip(wanted, prompts, outputs, strict=True)
    )
    for total, sent in (("prompt length", "prompt"), ("output len", "output")):
        if sum(getattr(one, sent) for one in served) != int(_figure(text, SUMS.format(total))):
            raise SystemExit(f"{path}: the {sent} tokens are not those of its last lines")
    return Answers(
        source=path.relative_to(root).as_posix(),
        wanted=wanted,
        served=served,
        ttft=_figure(text, MEANS.format("TTFT")),
        tpot=_figure(text, MEANS.format("TPOT")),
        latency=_figure(text, MEANS.format("Total Latency")),
    )


def rate(requests: tuple[Request, ...]) -> float:
    """Arrivals a second, from the first to the last."""
    span = requests[-1].offset - requests[0].offset
    return (len(requests) - 1) * NANOSECONDS / span


def _lines(path: Path) -> Iterator[Request]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            fields = json.loads(line)
            yield Request(
                prompt=fields["ContextTokens"],
                output=fields["GeneratedTokens"],
                offset=fields["StartTimeOffset"],
            )


def _merged(root: Path, name: str) -> Iterator[Request]:
    """A trace from its quarters; a half holds the quarters of its own parity."""
    whole, _, half = name.partition("_2DP4TP_")
    for quarter in range(QUARTERS):
        if half and quarter % 2 != int(half):
            continue
        path = root / "traces" / f"{whole}_4DP2TP_{quarter}.jsonl"
        if not path.is_file():
            raise SystemExit(f"neither {name}.jsonl nor {path} is there")
        yield from _lines(path)


def _figure(text: str, label: str) -> float:
    found = re.search(label + r"(\S+)", text, re.MULTILINE)
    assert found is not None, label
    return float(found.group(1))
