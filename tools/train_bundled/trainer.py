"""The training loop: one model, resumable, steered by a schedule and a control file.

Promises: a run resumed from its checkpoint takes the same steps as one never stopped, and a run
that ends always has a fully decayed learning rate.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors.torch import load_file

from .dataset import Windows, read_stream
from .evaluation import bits_per_byte
from .lanes import Lanes
from .model import MAX_POSITIONS, SHAPES, Llama
from .schedule import Schedule

SHORT, LONG = 512, MAX_POSITIONS
STEP_TOKENS = 4096
MATRIX_RATE, MATRIX_DECAY = 0.02, 0.01
EMBEDDING_RATE = 0.004
LARGEST_GRADIENT = 1.0
SAVE_SECONDS = 120.0
EVALUATE_SECONDS = 900.0
GLANCE_TOKENS = 32_768
SPEED_MEMORY = 0.95
FEWEST_STABLE_STEPS = 100
SLOWER_WITH_TEACHER = 2.5


@dataclass(frozen=True)
class Settings:
    """What a run is told; `folder` holds its checkpoint, its log and its control file."""

    model: str
    data: Path
    folder: Path
    seed: int
    lanes: int
    microbatch_tokens: int
    compile: bool
    finish_by: float | None = None
    teacher: Path | None = None


@dataclass
class Position:
    """How far a run has come."""

    step: int = 0
    tokens: int = 0
    taken_short: int = 0
    taken_long: int = 0
    seconds: float = 0.0
    schedule: Schedule = field(default_factory=Schedule)


class Trainer:
    """A model with its optimizers and its position in the run."""

    def __init__(self, settings: Settings, schedule: Schedule) -> None:
        self.settings = settings
        self.position = Position(schedule=schedule)
        self.model = Llama(SHAPES[settings.model])
        self.model.reset(settings.seed)
        self.optimizers = optimizers(self.model, settings.lanes)
        self.peaks = [group["lr"] for optimizer in self.optimizers for group in groups(optimizer)]
        self.windows = Windows(read_stream(settings.data / "train.bin"), settings.seed)
        self.held = read_stream(settings.data / "held.bin")
        self.facts: dict[str, Any] = json.loads((settings.data / "data.json").read_text())
        self.seconds_per_step = 0.0
        self.lanes = Lanes(self.model, settings.lanes, settings.compile)
        settings.folder.mkdir(parents=True, exist_ok=True)
        self.resume()

    def run(self) -> None:
        """Train until the schedule is done or the control file says `stop`."""
        saved = evaluated = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[state]}"),
        )
        with Progress(*columns, refresh_per_second=0.2) as progress:
            task = progress.add_task(self.settings.model, total=None, state="starting")
            while not self.position.schedule.is_done(self.position.step):
                if self.is_told_to_stop():
                    break
                loss = self.step()
                progress.update(
                    task,
                    completed=self.position.step,
                    total=self.position.schedule.steps,
                    state=f"step {self.position.step} loss {loss:.3f} "
                    f"{STEP_TOKENS / self.seconds_per_step:.0f} tokens/s",
                )
                now = time.monotonic()
                if now - saved > SAVE_SECONDS:
                    self.save()
                    saved = now
                if now - evaluated > EVALUATE_SECONDS:
                    self.glance()
                    evaluated = time.monotonic()
        self.save()
        self.glance()

    def step(self) -> float:
        """Take one optimizer step; return its mean loss in nats per token."""
        started = time.monotonic()
        position, schedule = self.position, self.position.schedule
        length = LONG if schedule.is_long(position.step) else SHORT
        count = STEP_TOKENS // length
        taken = position.taken_long if length == LONG else position.taken_short
        inputs, targets = self.windows.batch(length, count, taken)
        if schedule.is_decaying(position.step):
            self.meet_teacher()
        rows = max(1, self.settings.microbatch_tokens // length)
        loss = self.lanes.gradients(inputs, targets, rows)
        self.update(schedule.factor(position.step))
        position.step += 1
        position.tokens += STEP_TOKENS
        if length == LONG:
            position.taken_long += count
        else:
            position.taken_short += count
        self.keep_time(time.monotonic() - started)
        self.log(loss=loss, length=length)
        return loss

    def meet_teacher(self) -> None:
        """Take on the teacher, if there is one: costly, so only for the decay."""
        if self.settings.teacher is not None and not self.lanes.taught:
            self.lanes.follow(read_model("base", self.settings.teacher))

    def update(self, factor: float) -> None:
        """Apply the gathered gradients at this share of the peak rates."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT)
        every = [group for optimizer in self.optimizers for group in groups(optimizer)]
        for group, peak in zip(every, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.lanes.together([optimizer.step for optimizer in self.optimizers])
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def keep_time(self, seconds: float) -> None:
        """Follow the speed, and start the decay when the deadline asks for it."""
        position = self.position
        position.seconds += seconds
        first = self.seconds_per_step == 0.0
        memory = 0.0 if first else SPEED_MEMORY
        # The first steps compile, so one step's weight is bounded by three times the average.
        seconds = seconds if first else min(seconds, 3 * self.seconds_per_step)
        self.seconds_per_step = memory * self.seconds_per_step + (1 - memory) * seconds
        deadline = self.settings.finish_by
        waiting = not position.schedule.decays and position.step > FEWEST_STABLE_STEPS
        if waiting and deadline is not None:
            slower = SLOWER_WITH_TEACHER if self.settings.teacher else 1.0
            expected = self.seconds_per_step * slower
            if position.schedule.is_due(position.step, expected, deadline):
                position.schedule.begin_decay(position.step)

    def is_told_to_stop(self) -> bool:
        """Obey the control file: `decay` starts the decay, `stop` saves and leaves."""
        control = self.settings.folder / "control"
        if not control.exists():
            return False
        order = control.read_text().strip()
        control.unlink()
        if order == "decay" and not self.position.schedule.decays:
            self.position.schedule.begin_decay(self.position.step)
        return order == "stop"

    def glance(self) -> None:
        """Log the bits per byte on the first part of the held-out text."""
        share = GLANCE_TOKENS / len(self.held)
        size = self.facts["held_bytes"] * share
        self.log(bits_per_byte=bits_per_byte(self.model, self.held[:GLANCE_TOKENS], size, SHORT))

    def log(self, **values: float) -> None:
        """Append one line to the run's log."""
        line = {
            "step": self.position.step,
            "tokens": self.position.tokens,
            "seconds": round(self.position.seconds, 1),
            "clock": time.strftime("%H:%M:%S"),
            "factor": round(self.position.schedule.factor(self.position.step), 4),
            **values,
        }
        with (self.settings.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Write the checkpoint, replacing the last one only when it is complete."""
        partial = self.settings.folder / "checkpoint.partial"
        progress = asdict(self.position)
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "position": progress | progress.pop("schedule"),
            "lanes": self.settings.lanes,
            "shape": self.settings.model,
            "taught": self.settings.teacher is not None,
        }
        torch.save(state, partial)
        partial.rename(self.settings.folder / "checkpoint.pt")

    def resume(self) -> None:
        """Take up the folder's checkpoint, if there is one."""
        path = self.settings.folder / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        schedule = Schedule([(start, end) for start, end in state["position"].pop("decays")])
        schedule.adopt(self.position.schedule, state["position"]["step"])
        self.position = Position(**state["position"], schedule=schedule)


def groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The optimizer's parameter groups."""
    found: list[dict[str, Any]] = optimizer.param_groups
    return found


def read_model(name: str, folder: Path) -> Llama:
    """The model that `export` wrote to a folder."""
    model = Llama(SHAPES[name])
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({key: value.float() for key, value in weights.items()})
    return model.eval().requires_grad_(False)


def optimizers(model: Llama, lanes: int) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, dealt out to the lanes, and AdamW for the other parameters."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside = parameter.ndim == 2 and "embed_tokens" not in name
        (matrices if inside else others).append(parameter)
    dealt = [matrices[lane::lanes] for lane in range(lanes)]
    return [
        torch.optim.AdamW(
            others, lr=EMBEDDING_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        ),
        *(
            torch.optim.Muon(mine, lr=MATRIX_RATE, weight_decay=MATRIX_DECAY, momentum=0.95)
            for mine in dealt
        ),
    ]
