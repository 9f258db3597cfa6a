"""`ellm profile` from end to end, and what it concludes from a server it knows."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import ellm.cli.profiling.run as run
import ellm.cli.profiling.served as served
import ellm.llm.profiling.operators as operators
from ellm.cli import main
from ellm.cli.profiling.hosting import Heard
from ellm.cli.profiling.served import ANSWER, SHORT, ServerBench
from ellm.core.load import StepLoad
from ellm.core.units import MIB
from ellm.llm.args import EngineArgs
from ellm.llm.blueprint import Blueprint
from ellm.llm.build import build, choose_ops, prepare_device
from ellm.llm.profiling.copies import measure_copies
from ellm.llm.profiling.fit import StepFit
from ellm.llm.step_times import StepTimes
from ellm.scheduling.coefficients import Coefficients
from ellm.sim.profile import Profile

STEPS = Coefficients.even(token=1e-4, attention=1e-8, kv_token=1e-7, sequence=3e-5, step=1e-3)


class KnownServer:
    """Answers as a server would whose overheads are these."""

    request, each, start, step, sequence = 4e-3, 2e-6, 1e-3, 3e-4, 5e-5
    apart, end = 8e-5, 6e-4

    def __init__(self) -> None:
        self.known: set[tuple[int, ...]] = set()
        self.now = 0.0

    def _step(self, parts: list[tuple[int, int]]) -> float:
        seconds = STEPS.seconds(StepLoad.of(parts))
        return seconds + self.step + self.sequence * len(parts)

    def ask(
        self,
        prompts: Sequence[Sequence[int]],
        output: int,
        beside: Sequence[Sequence[int]] = (),
    ) -> list[Heard]:
        self.now += 10
        return self._visited(output, len(beside[0])) if beside else self._at_once(prompts, output)

    def _at_once(self, prompts: Sequence[Sequence[int]], output: int) -> list[Heard]:
        count, length = len(prompts), len(prompts[0])
        known = count == 1 and tuple(prompts[0]) in self.known
        computed = 1 if known else length
        self.known |= {tuple(prompt) for prompt in prompts}
        first = self._step([(computed, length - computed)] * count) + self.start * count
        first += self.request + self.each * length
        gaps = [self._step([(1, SHORT + ANSWER // 2)] * count)] * (output - 1)
        return [self._heard(first + place * self.apart, gaps) for place in range(count)]

    def _visited(self, output: int, length: int) -> list[Heard]:
        """Somebody who decodes, and in every third step somebody else."""
        decoding = (1, SHORT + ANSWER // 2)
        alone = self._step([decoding])
        mixed = self._step([decoding, (length, 0)])
        gaps = [
            alone + (number % 3 == 0) * (mixed - alone + self.start) for number in range(output - 1)
        ]
        first = self.request + self.each * length + alone / 2 + self.start + mixed + self.apart
        visits = [self._heard(first, [])] * (
            1 + sum(number % 3 == 0 for number in range(output - 1))
        )
        return [self._heard(first, gaps), *visits]

    def _heard(self, first: float, gaps: list[float]) -> Heard:
        last = first + sum(gaps)
        return Heard(self.now, first, last, last + self.end, gaps)


def test_a_servers_overheads_are_found_again() -> None:
    server = KnownServer()
    bench = ServerBench(server, StepFit(STEPS, 2e-4), 1000, 0, lambda done, total: None)
    found = bench.measure(64, 2048)
    for name, wanted in (
        ("step", server.step),
        ("sequence", server.sequence),
        ("start", server.start),
        ("request", server.request),
        ("prompt_token", server.each),
        ("output_token", server.apart),
        ("completion", server.end),
    ):
        assert getattr(found, name) == pytest.approx(wanted, rel=0.02), name
    assert [count for count, _ in found.decoding] == list(served.CROWDS)


def test_fewer_sequences_and_a_short_context_are_kept_to() -> None:
    asked: list[tuple[int, int]] = []

    class Watched(KnownServer):
        def _at_once(self, prompts: Sequence[Sequence[int]], output: int) -> list[Heard]:
            asked.append((len(prompts), len(prompts[0]) + output))
            return super()._at_once(prompts, output)

    bench = ServerBench(Watched(), StepFit(STEPS, 0.0), 1000, 0, lambda done, total: None)
    bench.measure(4, 200)
    assert max(count for count, _ in asked) == 4
    assert max(length for _, length in asked) <= 200


def test_a_tier_is_measured_and_its_file_is_gone(tmp_path: Path) -> None:
    found = measure_copies(str(tmp_path))
    assert 1e6 < found.down < 1e12
    assert 1e6 < found.up < 1e12
    assert not list(tmp_path.iterdir())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    turn = sys.getswitchinterval()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(run, "_PROBE_SECONDS", 0.1)
    monkeypatch.setattr(run, "_PROBE_SIZE", 8)
    monkeypatch.setattr(operators, "ON_CPU", operators.Sizes(2048, (64,), 16 * MIB, 256 * MIB))
    monkeypatch.setattr(served, "CROWDS", (1, 4))
    monkeypatch.setattr(served, "MOST_ROUNDS", 1)
    yield
    sys.setswitchinterval(turn)
    gc.unfreeze()


@pytest.mark.usefixtures("quick")
def test_a_profile_is_made_and_simulates_and_informs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "profile.json"
    options = ["--model", "ellm-draft", "--threads", "1", "--max-model-len", "256"]
    limits = ["--max-num-seqs", "4", "--memory", "64MiB"]
    tier = ["--kv-offloading-size", "64MiB", "--kv-offloading-dir", str(tmp_path)]
    asked = ["profile", *options, *limits, *tier, "--seconds", "0.5", "-o", str(file)]
    assert main.run(asked) == 0
    assert "decode" in capsys.readouterr().out

    profile = Profile.load(file)
    assert profile.model.name == "ellm-draft"
    assert profile.made["threads"] == 1
    assert profile.host is not None
    assert profile.host.threads == 1
    assert profile.host.tier is not None
    assert profile.device.overhead.start > 0
    assert profile.accuracy["decode"].mean < 0.5
    assert set(profile.made["roofline_error"]) == {"ellm-draft", "ellm-base"}

    # A server starts with what was measured.
    args = EngineArgs(model="ellm-draft", threads=1, max_model_len=256)
    blueprint = Blueprint.draw(args)
    prepare_device("cpu", 1)
    ops = choose_ops("cpu", blueprint.dtype, blueprint.spec.head_dim)
    times = StepTimes(blueprint, "cpu", ops.name)
    assert times.cost.coefficients == profile.coefficients
    assert times.cost.observations == 0

    out = tmp_path / "simulated"
    load = ["--lengths", "fixed", "--input-len", "64", "--output-len", "8", "--num-prompts", "6"]
    simulate = ["simulate", "--model", "ellm-draft", "--device", str(file), *load, *limits]
    assert main.run([*simulate, "-o", str(out)]) == 0
    assert profile.device.name in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert report["finished"] == 6
    assert report["ttft"]["mean"] > 0
    capsys.readouterr()
    assert main.run([*simulate, "-tp", "3", "-o", str(out)]) == 2
    assert "was measured on one device" in capsys.readouterr().err


def test_the_options_make_sense(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["profile", "--seconds", "0"]) == 2
    assert "--seconds must be above 0" in capsys.readouterr().err
    assert main.run(["profile", "--output", "profile.toml"]) == 2
    assert "must end in .json" in capsys.readouterr().err
    assert main.run(["profile", "--model", "no-such-model"]) == 2
    assert main.run(["simulate", "--model", "ellm-base", "--device", "no/such.json"]) == 2
    assert "measure again with ellm profile" in capsys.readouterr().err


def test_a_profiling_engine_computes_what_it_is_not_told_to_leave_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    from ellm.core.request import Request
    from ellm.core.sampling import SamplingParams
    from ellm.llm.profiling.steps import LOWEST_ID, Idler

    answers = []
    for idle in (None, False, True):
        idlers: list[Idler] = []

        def around(runner, idlers=idlers, idle=idle):  # type: ignore[no-untyped-def]
            if idle is None:
                return runner
            idlers.append(Idler(runner))
            idlers[-1].idle = idle
            return idlers[-1]

        engine = build(
            EngineArgs(model="ellm-draft", memory=64 * MIB, threads=1), around=around
        ).engine
        params = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
        engine.submit(Request(request_id="r", prompt=tuple(range(20, 40)), params=params))
        answers.append([news.token for _ in range(5) for news in engine.step()])
        engine.close()
    assert answers[0] == answers[1]
    assert answers[2] == [LOWEST_ID] * 4
