"""The command: `python -m tools.train_bundled train|export|evaluate ...`."""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from .card import Figures
from .dataset import prepare, read_stream
from .evaluation import acceptance, bits_per_byte
from .export import export, load_checkpoint, round_to_bfloat16
from .model import SHAPES
from .schedule import Schedule, clock_time, decay
from .trainer import LONG, SHORT, Settings, Trainer, read_model

HELD_STREAMS = {"held": "held.bin", "held_pair": "held_pairs.bin"}
ACCEPTANCE_TOKENS = 65_536


def parser() -> argparse.ArgumentParser:
    """The arguments of all sub-commands."""
    top = argparse.ArgumentParser(prog="python -m tools.train_bundled", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train or resume one model")
    train.add_argument("model", choices=sorted(SHAPES))
    train.add_argument("--work", type=Path, required=True, help="folder for data and checkpoints")
    train.add_argument("--seed", type=int, default=20)
    train.add_argument("--lanes", type=int, default=2, help="cores to use, one thread each")
    train.add_argument("--microbatch-tokens", type=int, default=2048)
    train.add_argument("--no-compile", action="store_true")
    train.add_argument(
        "--decay",
        type=decay,
        action="append",
        default=[],
        metavar="START:END",
        help="decay the learning rate to zero between these steps; again to stretch a decay",
    )
    train.add_argument("--finish-by", type=clock_time, help="HH:MM by which to have decayed")
    train.add_argument("--teacher", type=Path, help="a shipped base to learn from in the decay")
    ship = commands.add_parser("export", help="measure a checkpoint and write it for shipping")
    ship.add_argument("model", choices=sorted(SHAPES))
    ship.add_argument("--work", type=Path, required=True)
    ship.add_argument("--to", type=Path, required=True, help="the directory to write")
    ship.add_argument("--seed", type=int, default=20)
    ship.add_argument("--threads", type=int, default=2)
    ship.add_argument("--base", type=Path, help="for a draft: the shipped base it works for")
    ship.add_argument("--share", type=float, default=1.0, help="of the held-out text to measure")
    return top


def main() -> None:
    """Run one sub-command."""
    arguments = parser().parse_args()
    if arguments.command == "train":
        train(arguments)
    else:
        ship(arguments)


def train(arguments: argparse.Namespace) -> None:
    """Train or resume one model."""
    data = arguments.work / "data"
    prepare(data, arguments.seed)
    settings = Settings(
        model=arguments.model,
        data=data,
        folder=arguments.work / arguments.model,
        seed=arguments.seed,
        lanes=arguments.lanes,
        microbatch_tokens=arguments.microbatch_tokens,
        compile=not arguments.no_compile,
        finish_by=arguments.finish_by,
        teacher=arguments.teacher,
    )
    Trainer(settings, Schedule(arguments.decay)).run()


def ship(arguments: argparse.Namespace) -> None:
    """Round a checkpoint to bfloat16, measure it on the held-out text and write it."""
    torch.set_num_threads(arguments.threads)
    data = arguments.work / "data"
    facts = json.loads((data / "data.json").read_text())
    model, state = load_checkpoint(arguments.work / arguments.model / "checkpoint.pt")
    round_to_bfloat16(model)
    bits: dict[str, float] = {}
    agreement: dict[str, float] = {}
    for label, key in (("modules", "held"), ("pairs", "held_pair")):
        ids = read_stream(data / HELD_STREAMS[key])
        kept = ids[: round(len(ids) * arguments.share)]
        size = facts[f"{key}_bytes"] * len(kept) / len(ids)
        for window in (SHORT, LONG):
            bits[f"{label} @ {window}"] = bits_per_byte(model, kept, size, window)
    if arguments.base is not None:
        base = read_model("base", arguments.base)
        kept = read_stream(data / "held.bin")[: round(ACCEPTANCE_TOKENS * arguments.share)]
        agreement.update(acceptance(model, base, kept, SHORT))
    position = state["position"]
    figures = Figures(
        name=arguments.model,
        seed=arguments.seed,
        steps=position["step"],
        decays=[(start, end) for start, end in position["decays"]],
        lanes=state["lanes"],
        tokens=position["tokens"],
        share=arguments.share,
        taught=state.get("taught", False),
        versions={
            "python": platform.python_version(),
            "torch": version("torch").split("+")[0],
            "numpy": version("numpy"),
        },
        data={key: value for key, value in facts.items() if isinstance(value, int)},
        bits=bits,
        agreement=agreement,
    )
    export(model, data / "tokenizer.json", figures, arguments.to)
    print(json.dumps(bits | agreement, indent=1))


if __name__ == "__main__":
    main()
