"""Reading apex_plus: headers over first answers, traces in parts, counters that went on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks/published-h100"))

from apex import answers, trace
from extract import runs_of

HEADER = "Trace file: ../traces/llama/lmsys_05.jsonl\n"


def write_trace(root: Path, name: str, rows: list[tuple[int, int, int]]) -> None:
    path = root / "traces" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = ("ContextTokens", "GeneratedTokens", "StartTimeOffset")
    path.write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows))


def write_result(root: Path, load: str, plan: str, lines: list[str]) -> Path:
    path = root / "vllm" / "results" / f"llama_{load}_validation_{plan}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))
    return path


def sums(prompt: int, output: int, longer: int) -> list[str]:
    """The lines after the answers; the quotients are of the test below."""
    return [
        f"vLLm prompt length sum: {prompt}\n",
        f"vLLm output len sum: {output}\n",
        f"Total prompt len difference(vLLm - trace): {longer}\n",
    ]


def counters(ttft: float, tpot: float, latency: float) -> list[str]:
    return [
        f"vLLM TTFT: {ttft} \n",
        f"vLLM TPOT: {tpot} \n",
        f"vLLM Total Latency: {latency} \n",
    ]


@pytest.mark.parametrize("rest", ["19, output_len_diff = -2\n", "9, output_len_diff = -2\n"])
def test_first_answer_below_the_header(rest: str, tmp_path: Path) -> None:
    write_trace(tmp_path, "llama/lmsys_05", [(10, 5, 1), (20, 6, 2)])
    second = "Request: b, prompt difference = 11, output_len_diff = 0\n"
    lines = [HEADER, rest, second, *sums(60, 9, 30), *counters(0.5, 0.1, 1.9)]
    path = write_result(tmp_path, "lmsys_05", "8TP", lines)
    read = answers(tmp_path, path)
    assert [(one.prompt, one.output) for one in read.served] == [(29, 3), (31, 6)]
    lines[3] = sums(61, 9, 30)[0]
    write_result(tmp_path, "lmsys_05", "8TP", lines)
    with pytest.raises(SystemExit, match="prompt tokens"):
        answers(tmp_path, path)


def test_trace_from_its_quarters(tmp_path: Path) -> None:
    for quarter in range(4):
        rows = [(quarter, 1, quarter + 1), (quarter, 1, quarter + 5)]
        write_trace(tmp_path, f"llama/lmsys_05_4DP2TP_{quarter}", rows)
    whole = trace(tmp_path, "llama/lmsys_05")
    assert [one.offset for one in whole] == list(range(1, 9))
    half = trace(tmp_path, "llama/lmsys_05_2DP4TP_1")
    assert [one.prompt for one in half] == [1, 3, 1, 3]
    with pytest.raises(SystemExit, match="neither"):
        trace(tmp_path, "llama/creation_05")


def test_counters_of_a_server_that_went_on(tmp_path: Path) -> None:
    for load in ("lmsys_05", "creation_05"):
        write_trace(tmp_path, f"llama/{load}", [(10, 5, 1), (10, 5, 2)])
    same = "Request: b, prompt difference = 0, output_len_diff = 0\n"
    served = ["0, output_len_diff = 0\n", same, *sums(20, 10, 0)]
    # Two first tokens in 1 s, ten tokens in 2 s; then as many in 3 s and in 6 s.
    write_result(tmp_path, "lmsys_05", "4TP", [HEADER, *served, *counters(0.5, 0.2, 3.0)])
    later = HEADER.replace("lmsys", "creation")
    lines = [later, *served, *counters(1.0, 0.4, 12.0)]
    write_result(tmp_path, "creation_05", "4TP", lines)
    cells = runs_of(tmp_path)
    [(_, first, after)] = cells["llama", "creation_05", "4TP"]
    assert (first, after) == pytest.approx((3.0, 6.0))
    lines[-1] = counters(1.0, 0.4, 12.1)[-1]
    write_result(tmp_path, "creation_05", "4TP", lines)
    with pytest.raises(SystemExit, match="are not"):
        runs_of(tmp_path)
