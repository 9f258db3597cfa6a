"""The command line that all benchmarks share."""

from __future__ import annotations

import argparse
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path


def parser(description: str, folder: Path, arms: Sequence[str], rounds: int | None) -> _Parser:
    """--rounds, --seed, --threads, --arms, --output, and --quick, which only sees that it works.

    `rounds` None is for a runner that has a number of its own for each of several runs.  A quick
    run has one round and writes to the temporary directory, never beside real results.
    """
    options = _Parser(description=description)
    options.known_arms = tuple(arms)
    options.add_argument("--rounds", type=int, default=rounds)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--arms", type=_names, default=tuple(arms), help="comma-separated")
    options.add_argument("--output", type=Path, default=folder / "results.jsonl")
    options.add_argument(
        "--quick", action="store_true", help="a smoke test, of a minute where no peer is loaded"
    )
    return options


class _Parser(argparse.ArgumentParser):
    known_arms: tuple[str, ...] = ()
    known_parts: tuple[str, ...] = ()
    is_of_a_gpu = False

    def with_device(self) -> None:
        """--device, for runners that measure a GPU, and may be tried on a CPU."""
        self.add_argument(
            "--device", choices=("cuda", "cpu"), default="cuda", help="cpu shows that it works"
        )
        self.is_of_a_gpu = True

    def with_parts(self, parts: Sequence[str]) -> None:
        """--parts, for runners that ask several questions."""
        self.known_parts = tuple(parts)
        self.add_argument("--parts", type=_names, default=self.known_parts, help="comma-separated")

    def _look_for(self, asked: argparse.Namespace) -> None:
        """Refuse what cannot be measured, before anything is written."""
        device = getattr(asked, "device", "cpu")
        if device == "cuda":
            import torch

            if not torch.cuda.is_available():
                again = "; --device cpu --quick shows that it works" if self.is_of_a_gpu else ""
                self.error(f"PyTorch {torch.__version__} finds no CUDA device{again}")
        elif self.is_of_a_gpu and not asked.quick:
            self.error("--device cpu only shows that it works, and goes with --quick")

    # Always of this process's command line, so without the base's arguments.
    def parse_args(self) -> argparse.Namespace:  # type: ignore[override]
        asked = super().parse_args()
        # timeout(1) ends a run as ^C does: runners may still write what they have.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if strange := [arm for arm in asked.arms if arm not in self.known_arms]:
            self.error(f"no arm {', '.join(strange)}: there are {', '.join(self.known_arms)}")
        if strange := [
            part for part in getattr(asked, "parts", ()) if part not in self.known_parts
        ]:
            self.error(f"no part {', '.join(strange)}: there are {', '.join(self.known_parts)}")
        self._look_for(asked)
        if asked.quick:
            asked.rounds = 1
            if asked.output == self.get_default("output"):
                asked.output = Path(tempfile.gettempdir()) / f"{asked.output.parent.name}.jsonl"
        return asked


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))
