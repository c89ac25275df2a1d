"""Mutation testing: faults drawn from the code with a seed, each planted in a copy of the tree, and whether tests fail.

``python -m tests.mutation --count 20 --seed 20 -- tests/recorded`` draws twenty faults from all packages and runs the
tests behind ``--`` for each until one fails. With ``--coverage .coverage`` these are the tests that ran its line::

    python -m pytest -n 2 --cov=lora_cli --cov-context=test --cov-report=     # of pytest-cov; writes .coverage

Of a line that only other processes ran they are the nearest test files. Survivors are tried again, by their numbers
(``--only``), with more tests. mypy is asked first, as it is part of ``make test``.
Each fault is a line: caught or survived, where, what became what, and the test that failed. That test runs once more
with the fault and once without: where it does not fail for the fault alone, the fault is ``unsure``.
Mutation tools were looked at: none draws a sample by package and seed and leaves the tree as it is.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult,
}  # fmt: skip


@dataclass(frozen=True, order=True)
class Fault:
    """One change of one place in a file: ``old`` source text from ``start`` to ``stop`` becomes ``new``."""

    file: str
    line: int
    start: int
    stop: int
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {' '.join(self.old.split())[:90]} -> {' '.join(self.new.split())[:90]}"

    def plant(self, root: Path) -> None:
        """Changes the file below ``root``."""
        path = root / self.file
        data = path.read_bytes()
        path.write_bytes(data[: self.start] + self.new.encode() + data[self.stop :])


def faults_in(path: Path) -> Iterator[Fault]:
    """Every fault that can be planted in a file."""
    data = path.read_bytes()
    lines = [0]
    for line in data.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    tree = ast.parse(data)
    skipped = {id(inner) for node in ast.walk(tree) if _says_nothing(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        for new in _mutants(node) if id(node) not in skipped else ():
            assert isinstance(node, ast.expr | ast.stmt)
            start = lines[node.lineno - 1] + node.col_offset
            stop = lines[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
            yield Fault(str(path.relative_to(ROOT)), node.lineno, start, stop, data[start:stop].decode(), new)


def _says_nothing(node: ast.AST) -> bool:
    """Imports for types only, and ``frozen`` and ``slots``, which mypy holds: no test could tell."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, ast.keyword) and node.arg in {"frozen", "slots"}


def _mutants(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        ops = [SWAPPED[type(node.ops[0])](), *node.ops[1:]]
        yield f"({ast.unparse(ast.Compare(node.left, ops, node.comparators))})"  # type: ignore[arg-type]
    elif isinstance(node, ast.BoolOp):
        yield f"({ast.unparse(ast.BoolOp(SWAPPED[type(node.op)](), node.values))})"  # type: ignore[arg-type]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.IfExp):
        yield f"({ast.unparse(ast.IfExp(node.test, node.orelse, node.body))})"
    elif isinstance(node, ast.BinOp) and type(node.op) in SWAPPED:
        yield f"({ast.unparse(ast.BinOp(node.left, SWAPPED[type(node.op)](), node.right))})"  # type: ignore[arg-type]
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield str(not node.value)
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield str(node.value + 1)
    elif isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield "pass"
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield "return None"


def draw(seed: int, count: int, per_package: int = 0) -> list[Fault]:
    """``count`` faults of the whole package, at least ``per_package`` in each folder directly below it."""
    random = Random(seed)
    by_package: dict[str, list[Fault]] = {}
    for path in sorted((ROOT / "lora_cli").rglob("*.py")):
        parts = path.relative_to(ROOT / "lora_cli").parts
        by_package.setdefault(parts[0] if len(parts) > 1 else "", []).extend(faults_in(path))
    drawn = [fault for faults in by_package.values() for fault in random.sample(faults, min(per_package, len(faults)))]
    others = sorted({fault for faults in by_package.values() for fault in faults} - {*drawn})
    return [*drawn, *random.sample(others, max(0, count - len(drawn)))]


MOST_TESTS, MOST_FILES, LINES_BEFORE, LINES_AFTER = 80, 4, 8, 3


def covering(fault: Fault, data: Any) -> list[str]:
    """The tests that ran the fault's line by ``data`` (coverage's); first those of the rarest of the lines behind it.

    What the fault decides is there. Of each function one test comes before the others.
    """
    contexts = data.contexts_by_lineno(str(ROOT / fault.file))
    # A part of a statement has the line that the statement begins with.
    before = range(fault.line, max(0, fault.line - LINES_BEFORE), -1)
    first = next((line for line in before if {*contexts.get(line, ())} - {""}), None)
    if first is None:
        return []
    lines = [line for line in range(first, fault.line + LINES_AFTER + 1) if line in contexts]
    found: dict[str, None] = {}
    for line in sorted(lines, key=lambda line: len(contexts[line])):
        seen = Counter[str]()
        turns = []
        for test in sorted({one.rpartition("|")[0] for one in contexts[line]} - {""}):
            function = test.partition("[")[0]
            turns.append((seen[function], test))
            seen[function] += 1
        found |= dict.fromkeys(test for _, test in sorted(turns)[: MOST_TESTS // 2])
    return list(found)[:MOST_TESTS]


def near(fault: Fault) -> list[str]:
    """The test files nearest to a fault: they name its module, are called like it, or are of its package."""
    path = Path(fault.file)
    words = {*path.parts[1:-1], path.stem}
    named = re.compile(rf"\b{'.'.join(path.parent.parts)}(\.| import .*\b){path.stem}\b")

    def reasons(test: Path) -> int:
        called = any(word in test.stem for word in words)
        return bool(named.search(test.read_text())) + called + (test.relative_to(ROOT).parts[1] in words)

    counted = sorted((-reasons(test), str(test.relative_to(ROOT))) for test in (ROOT / "tests").rglob("test_*.py"))
    return [name for count, name in counted if count][:MOST_FILES]


def caught(fault: Fault, tests: Sequence[str], timeout_s: float) -> tuple[str, str]:
    """``caught`` when a test fails, and which; ``no end`` when the tests do not end in time; else ``survived``."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".git", ".venv*", ".assets", ".ruff_cache", ".pytest_cache", "dist")
        shutil.copytree(ROOT, copy, ignore=ignored, symlinks=True)
        fault.plant(copy)
        if subprocess.run([sys.executable, "-m", "mypy"], cwd=copy, capture_output=True, check=False).returncode:
            return "caught", "mypy"
        try:
            failed = _failed(copy, tests, timeout_s)
            if not failed:
                return "survived", ""
            again = _failed(copy, [failed], timeout_s)
            shutil.copy2(ROOT / fault.file, copy / fault.file)
            return "caught" if again and not _failed(copy, [failed], timeout_s) else "unsure", failed
        except TimeoutError:
            return "no end", ""


def _failed(tree: Path, tests: Sequence[str], timeout_s: float) -> str:
    """The first test that fails there, or the file that cannot be imported; empty if none does."""
    limit = ["timeout", "--signal=INT", "--kill-after=30", str(timeout_s)]
    command = [*limit, sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-rfE", "--tb=no", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if done.returncode in {124, 137}:
        raise TimeoutError
    found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", done.stdout, re.MULTILINE)
    return "" if done.returncode == 0 else found[1] if found else tests[0]


def main() -> int:
    """Draws, plants and tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--per-package", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=900)
    parser.add_argument("--coverage", type=Path, help="of a run of the tests: those that ran the line of the fault")
    parser.add_argument("--only", type=int, nargs="*", help="these numbers of the list alone")
    parser.add_argument("tests", nargs="*", default=["tests"])
    given = parser.parse_args()
    faults = draw(given.seed, given.count, given.per_package)
    data = None
    if given.coverage is not None:
        from coverage import CoverageData

        data = CoverageData(str(given.coverage))
        data.read()
    for number in given.only or range(len(faults)):
        fault = faults[number]
        tests = given.tests if data is None else covering(fault, data) or near(fault)
        result, test = caught(fault, tests, given.timeout)
        print(f"{number:3} {result:9} {fault} {test and f'[{test}]'}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
