"""Fail when a source file or a function outgrows what one can hold in the head."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES = {"src": 400, "tools": 400, "benchmarks": 400, "tests": 600}
FUNCTION_LINES = 60


def functions(tree: ast.AST) -> Iterator[tuple[str, int, int]]:
    """Name, first line and length of every function, its decorators left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.lineno, node.end_lineno - node.lineno + 1


def violations(path: Path, limit: int) -> Iterator[str]:
    """One line for each way in which `path` is over budget."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT)
    lines = text.count("\n")
    if lines > limit:
        yield f"{name}: {lines} lines, the budget is {limit}"
    for function, start, length in functions(ast.parse(text)):
        if length > FUNCTION_LINES:
            yield f"{name}:{start}: {function} has {length} lines, the budget is {FUNCTION_LINES}"


def main() -> int:
    """Print every violation; the exit status says whether there was one."""
    found: list[str] = []
    files = 0
    for folder, limit in FILE_LINES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            files += 1
            found += violations(path, limit)
    print("\n".join(found) if found else f"size budget kept by {files} files")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
