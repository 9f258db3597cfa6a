"""`ellm simulate` from flags to files, and what it says of bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from ellm.cli.main import run
from ellm.cli.simulation import plots
from ellm.core.objectives import Objectives
from ellm.core.units import GIB
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.deployment import Deployment
from ellm.sim.devices.known import find_device
from ellm.sim.scenario import Scenario, simulate
from ellm.sim.workload.item import Item

HERE = ["simulate", "--model", "llama-3.1-8b", "--device", "A100-80GB"]
FEW = ["--lengths", "fixed", "--input-len", "200", "--output-len", "16", "--num-prompts", "8"]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error."""
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_the_report_is_told_written_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*HERE, *FEW, "--rate", "4", "--ttft-slo", "1s", "--tpot-slo", "100ms"]
    assert run([*asked, "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for word in ("TTFT", "TPOT", "goodput", "a step", str(tmp_path / "memory.svg")):
        assert word in out
    assert {file.name for file in tmp_path.iterdir()} == {
        "report.json",
        *(f"{name}.{suffix}" for name in ("memory", "latency") for suffix in ("svg", "png")),
    }
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["finished"] == 8


def test_a_tier_has_a_panel_of_its_own() -> None:
    llama, device = find_transformer("llama-3.1-8b"), find_device("A100-80GB")
    deployment = Deployment.by_roofline(llama, device)
    outcome = simulate(Scenario(deployment=deployment, items=[Item(1500, 4)] * 2))
    labels = {}
    for tiered in (True, False):
        figure = Figure()
        memory = [replace(one, below=GIB * tiered) for one in outcome.report.memory]
        seen = replace(outcome, report=replace(outcome.report, memory=memory))
        plots._memory(figure, seen, Objectives())
        labels[tiered] = [axis.get_ylabel() for axis in figure.axes]
    assert labels[True] == ["GiB of a device (mean)", "GiB in the tier", "requests"]
    assert labels[False] == ["GiB of a device (mean)", "requests"]


def test_the_same_seed_makes_the_same_report(tmp_path: Path) -> None:
    texts = []
    for name, seed in (("one", "3"), ("two", "3"), ("three", "4")):
        asked = [*HERE, "--lengths", "sharegpt", "--num-prompts", "20", "--rate", "4"]
        assert run([*asked, "--seed", seed, "-o", str(tmp_path / name)]) == 0
        texts.append((tmp_path / name / "report.json").read_text())
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ttft-slo", "1ms"], ("TTFT is", "1 ms are wished", "allow more time")),
        (["--ttft-slo", "10s", "--tpot-slo", "1ms"], ("TPOT is", "1 ms are wished")),
        (["--device", "A9000"], ("A9000", "A100-80GB")),
        (["--model", "llama-9"], ("llama-9", "did you mean")),
        (["-tp", "0"], ("0",)),
        (["-dp", "100000"], ("100000 devices are too many", "4096 at most")),
        (["--kv-cache-dtype", "fp9"], ("'fp9' for kv", "fp8")),
        (["--kv-cache-dtype", "int4"], ("less than a byte", "fp8 and int8")),
        (["--rate", "0"], ("--rate must be above 0, not 0",)),
        (["--rate", "inf"], ("--rate must be finite, not inf",)),
        (["--input-len", "0"], ("--input-len must be at least 1, not 0",)),
        (["--lengths", "alpaca"], ("--input-len and --output-len", "--lengths fixed")),
        (["--rate-scale", "2"], ("--rate-scale is for a trace's own times", "--rate")),
        (["--enable-expert-parallel"], ("llama-3.1-8b has no experts", "leave it out")),
        (["--trace", "chat"], ("--trace", "--lengths", "give one")),
        (["--memory", "500GiB"], ("--memory 500 GiB", "more than the 80 GiB of A100-80GB")),
        (["--memory", "1GiB"], ("15 GiB of weights", "1 GiB of --memory: give more")),
        (["--memory", "4GiB", "-tp", "2"], ("7.48 GiB of weights", "4 GiB of --memory")),
        (["--max-model-len", "100"], ("8 of 8", "context of 100", "--max-model-len")),
        (["--model", "mixtral-8x7b", "--enable-expert-parallel"], ("--tensor-parallel-size",)),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    flags: list[str], words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*HERE, *FEW, *flags, "-o", str(tmp_path / "out")]) == 2
    line = said(capsys)
    for word in words:
        assert word in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["simulate", "plan"])
@pytest.mark.parametrize("inside", [(), ("out", "here")])
def test_where_nothing_can_be_written_nothing_is_run(
    verb: str, inside: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert run([verb, *HERE[1:], *FEW, "-o", str(file.joinpath(*inside))]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{file} is no folder" in captured.err


def test_a_folder_that_is_not_ours_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert run([*HERE, *FEW, "-o", str(tmp_path / "out" / "here")]) == 2
    assert f"no permission in {tmp_path}" in said(capsys)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num-prompts", "0"], "--num-prompts must be at least 1, not 0"),
        (["--burstiness", "2"], "--burstiness is of arrivals at a --rate"),
        (["--input-len", "9"], "--input-len would change nothing"),
    ],
)
def test_a_flag_that_a_trace_has_no_use_for_is_refused(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*HERE, *flags, "-o", str(tmp_path / "out")]) == 2
    assert words in said(capsys)


def test_fixed_lengths_have_defaults(tmp_path: Path) -> None:
    asked = [*HERE, "--lengths", "fixed", "--num-prompts", "2", "-o", str(tmp_path)]
    assert run(asked) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["prompt_tokens"], report["output_tokens"]) == (2 * 1024, 2 * 256)


def test_the_longest_context_that_fits_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a budget that holds the weights and little else."""
    small = [*HERE, *FEW, "--rate", "1", "--memory", "17GiB", "-o", str(tmp_path)]
    assert run(small) == 2
    assert "--max-model-len" in said(capsys)
    assert run([*small, "--max-model-len", "auto"]) == 0


def rows(*lines: str) -> str:
    return "\n".join(("TIMESTAMP,ContextTokens,GeneratedTokens", *lines)) + "\n"


TIMES = [f"2023-11-16 18:15:{second:02}.0000000" for second in (1, 2, 4)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (rows(f"{TIMES[1]},9,9", f"{TIMES[0]},9,9"), ("line 3", "TIMESTAMP", "sort")),
        (rows(f"{TIMES[0]},9,-9"), ("line 2", "GeneratedTokens", "-9")),
        (rows(f"{TIMES[0]},131000,900"), ("line 2", "131000", "--max-model-len", "--drop-longer")),
        ("when,prompt\n1,2\n", ("when",)),
    ],
)
def test_a_row_that_makes_no_sense_is_named(
    text: str, words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(text)
    assert run([*HERE, "--trace", str(trace), "-o", str(tmp_path / "out")]) == 2
    line = said(capsys)
    for word in (str(trace), *words):
        assert word in line


def test_a_trace_that_breaks_off_is_simulated_to_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(rows(*(f"{time},40,5" for time in TIMES))[:-4])
    asked = [*HERE, "--trace", str(trace), "--num-prompts", "5"]
    assert run([*asked, "-o", str(tmp_path / "out")]) == 0
    found = capsys.readouterr()
    assert "only 2 requests of the 5 of --num-prompts" in found.err
    assert "ends in the middle of line 4" in found.err
    assert "2 requests" in found.out


def test_a_trace_of_several_models_is_said_to_be_served_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    lines = ["arrived_at_s,model_index,prompt_tokens,output_tokens", "0.5,0,20,5", "0.9,3,20,5"]
    trace.write_text("\n".join(lines) + "\n")
    assert run([*HERE, "--trace", str(trace), "-o", str(tmp_path / "out")]) == 0
    assert "asks 2 models" in said(capsys)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\nimport no_such_module\n", ("line 2", "no_such_module")),
        ("x = (\n", ("line 1", "SyntaxError")),
        ("def f():\n    1 / 0\n\nf()\n", ("line 2", "division by zero")),
        (
            "from ellm.sim.fabrics.known import find_fabric\nfind_fabric('none of them')\n",
            ("line 2", "no fabric is called"),
        ),
        (None, ("no file",)),
    ],
)
def test_an_extension_that_fails_is_named_with_its_line(
    text: str | None, words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.py"
    if text is not None:
        file.write_text(text)
    assert run([*HERE, *FEW, "--extension", str(file), "-o", str(tmp_path / "out")]) == 2
    line = said(capsys)
    for word in (f"the extension {file}", *words):
        assert word in line
    assert not (tmp_path / "out").exists()
