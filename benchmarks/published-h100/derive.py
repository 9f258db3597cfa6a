"""Write lengths and arrivals of every trace, as sent and as served, to a folder of CSV files.

    APEX_HOME=path/to/apex_plus python benchmarks/published-h100/derive.py FOLDER

`traces/` has what was asked for, by trace; `served/` what the server counted, by result file: its
prompt has the chat template, its answer ends where the model ended it.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from apex import Request, answers, home, results, trace, traces

COLUMNS = ("ContextTokens", "GeneratedTokens", "StartTimeOffset_ns")


def write(path: Path, requests: tuple[Request, ...]) -> None:
    """One row a request, by arrival."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        rows.writerows((one.prompt, one.output, one.offset) for one in requests)


def main() -> None:
    """Write both folders, and say how many files there are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write; outside the repository")
    folder: Path = parser.parse_args().folder
    root = home()
    names = traces(root)
    for name in names:
        write(folder / "traces" / f"{name}.csv", trace(root, name))
    paths = results(root)
    for path in paths:
        stem = path.stem.replace("_validation", "")
        write(folder / "served" / f"{stem}.csv", answers(root, path).served)
    print(f"{len(names)} traces and {len(paths)} served ones in {folder}")


if __name__ == "__main__":
    main()
