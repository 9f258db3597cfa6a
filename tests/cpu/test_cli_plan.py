"""`ellm plan` from flags to files, and its plan in `ellm simulate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ellm.cli.main import run
from ellm.sim.anatomy import reader
from ellm.sim.fabrics.collective import REGISTERED

SMALL = ["--device", "L4", "--lengths", "fixed", "--input-len", "100", "--output-len", "8"]
SMALL += ["--num-prompts", "6", "--rate", "2", "--max-model-len", "2048"]
LLAMA = ["plan", "--model", "llama-3.1-8b", *SMALL]
OWN_CELL = '''
"""A feed-forward half that only two devices can share, and a collective."""
from dataclasses import dataclass

from ellm.sim.anatomy.cell import Split
from ellm.sim.anatomy.reader import channel
from ellm.sim.anatomy.shard import Product, Shard
from ellm.sim.fabrics.collective import Collective, Stage, register, whole

register(Collective(
    name="relay", bus_factor=float, steps=int,
    within=(Stage("relay", whole),), between=(Stage("relay", whole),),
))


@dataclass(frozen=True)
class Twin:
    hidden: int
    name = "twin"
    remembers = False
    tasks = 2

    def splits(self, devices):
        if devices > 2:
            return ()
        product = Product(self.hidden, self.hidden * 8 // devices)
        return (Split("whole" if devices == 1 else "halved", Shard((product,))),)


@channel
def twin(config, index):
    return Twin(config.integer("hidden_size")) if "twins" in config else None
'''


def test_a_plan_is_found_told_written_and_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*LLAMA, "--max-gpus", "2", "--ttft-slo", "1s", "--tpot-slo", "100ms", "--jobs", "1"]
    assert run([*asked, "-o", str(tmp_path / "plan")]) == 0
    out = capsys.readouterr().out
    for word in ("llama-3.1-8b on up to 2 x L4", "best", "runner-up", "heuristic", "J/token"):
        assert word in out
    folder = tmp_path / "plan"
    assert {file.name for file in folder.iterdir()} == {
        "plan.json",
        "report.json",
        "plans.svg",
        "plans.png",
    }
    report = json.loads((folder / "report.json").read_text())
    (best,) = [trial for trial in report["trials"] if trial["best"]]
    assert best["plan"] == json.loads((folder / "plan.json").read_text())
    assert best["front"]
    argv = ["simulate", "--model", "llama-3.1-8b", *SMALL, "--ttft-slo", "1s"]
    argv += ["--tpot-slo", "100ms", "--plan", str(folder / "plan.json")]
    assert run([*argv, "-o", str(tmp_path / "again")]) == 0
    assert best["plan"]["describe"] in capsys.readouterr().out
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    for figure in ("duration", "output_rate", "joules", "ttft", "tpot", "goodput"):
        assert again[figure] == best["report"][figure]
    assert run([*argv, "-tp", "2"]) == 2
    assert "give --plan or sizes, not both" in capsys.readouterr().err


def test_a_cell_of_ones_own_is_planned_for_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reader, "_channels", list(reader._channels))
    (tmp_path / "twins.py").write_text(OWN_CELL)
    config = {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "twins": 1}
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "vocab_size": 1000, "max_position_embeddings": 4096})
    )
    asked = ["plan", "--model", str(tmp_path / "config.json"), *SMALL, "--max-gpus", "2"]
    asked += ["--extension", str(tmp_path / "twins.py"), "--jobs", "2", "--thorough"]
    assert run([*asked, "-o", str(tmp_path / "plan")]) == 0
    assert REGISTERED.pop("relay")
    report = json.loads((tmp_path / "plan" / "report.json").read_text())
    cells = [trial["plan"]["cells"] for trial in report["trials"]]
    assert all(cell[1]["cell"] == "twin" for cell in cells)
    assert "twin" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--max-gpus", "0"], "--max-gpus must be at least 1, not 0"),
        (["--max-gpus", "5000"], "5000 devices are too many to simulate: 4096 at most"),
        (["--max-gpus", "many"], "cannot read 'many' as a count"),
        (["--device", "profile.json"], "profile.json is a profile of one machine"),
        (["--device", "L5"], "no device is called 'L5': did you mean L4"),
        (["--model", "llama-9"], "known shape 'llama-9'"),
        (["--jobs", "0"], "--jobs must be at least 1, not 0"),
        (["--objective", "goodput"], "--ttft-slo or --tpot-slo"),
        (["--min-goodput", "lots", "--ttft-slo", "1s"], "write 7.5 for requests/s, or 95%"),
        (["--min-goodput", "95%"], "--ttft-slo or --tpot-slo"),
        (["--objective", "latency", "--min-goodput", "1"], "give one"),
        (["--ttft-slo", "1ms"], "no plan meets the objectives for any request, were it alone"),
        (["--ttft-slo", "1s", "--min-goodput", "99"], "--min-goodput 99 requests/s"),
        (["--model", "llama-3.1-70b", "--max-gpus", "1"], "does not fit 1 x L4"),
        (["--memory", "500GiB"], "--memory 500 GiB is more than the 22.5 GiB of L4"),
        (["--memory", "1GiB", "--max-gpus", "1"], "and has 1 GiB by --memory"),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*LLAMA, *more]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err
