"""What `ellm plan` leaves behind: plan.json, report.json and a plot."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ellm.cli.planning.plots import draw
from ellm.core.errors import ConfigError
from ellm.planner.anatomy import anatomy
from ellm.planner.case import Case
from ellm.planner.objective import Wish
from ellm.planner.search import Found, Trial
from ellm.planner.verdict import gain, reason
from ellm.sim.parallel.saved import plan_as_json


def write(found: Found, case: Case, wish: Wish, folder: Path, title: str) -> None:
    """All files; says where they are.  Raises ConfigError where they cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        print()
        for name, content in (
            ("plan", plan_as_json(found.best.plan, case.transformer)),
            ("report", as_json(found, case, wish)),
        ):
            file = folder / f"{name}.json"
            file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            print(f"{name:<8}{file}")
        for file in draw(found, wish, folder, title):
            print(f"{'plot':<8}{file}")
    except OSError as error:
        raise ConfigError(f"cannot write to --output {folder}: {error.strerror}") from error
    except ConfigError as error:
        print(f"warning: {error}", file=sys.stderr)


def as_json(found: Found, case: Case, wish: Wish) -> Mapping[str, Any]:
    """Every plan that served the whole trace, the best first."""
    best, second, usual = found.best, found.second, found.usual
    return {
        "model": case.transformer.name,
        "device": case.device.name,
        "formats": asdict(case.formats),
        "requests": len(case.items),
        "objective": wish.objective.value,
        "ttft_slo": wish.slo.ttft,
        "tpot_slo": wish.slo.tpot,
        "min_goodput": None if wish.floor is None else str(wish.floor),
        "counts": asdict(found.counts),
        "reason": None if second is None else reason(case, wish, best, second),
        "gain": None if usual is None else gain(wish, best, usual),
        "trials": [_trial(found, case, trial) for trial in found.trials],
    }


def _trial(found: Found, case: Case, trial: Trial) -> Mapping[str, Any]:
    return {
        "plan": plan_as_json(trial.plan, case.transformer),
        "best": trial is found.best,
        "runner_up": trial is found.second,
        "heuristic": trial is found.usual,
        "front": any(trial is one for one in found.front),
        "figures": trial.figures.as_json(),
        "bound": trial.prospect.bound.as_json(),
        "need": asdict(trial.prospect.need),
        "step": anatomy(case, trial).as_json(),
        "report": trial.report.as_json(),
    }
