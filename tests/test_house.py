"""The house stays readable: no module is longer than five hundred lines, and no function than sixty."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

FOLDERS = ("lora_cli", "tests", "benchmarks", "manifests", "docs")


def modules() -> Iterator[tuple[str, str]]:
    """Each module's path and text."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def lengths(text: str) -> Iterator[tuple[str, int]]:
    """Each function's name and its lines, from the signature to the end, without decorators."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            yield node.name, node.end_lineno - node.lineno + 1


def test_no_module_is_longer_than_five_hundred_lines() -> None:
    assert {path: lines for path, text in modules() if (lines := len(text.splitlines())) > 500} == {}


def test_no_function_is_longer_than_sixty_lines() -> None:
    long = {f"{path}: {name}": lines for path, text in modules() for name, lines in lengths(text) if lines > 60}
    assert long == {}


def test_packages_of_folders_are_named_for_what_they_hold() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [path for path, _ in modules() if vague & set(path.removesuffix(".py").split("/"))] == []


def test_the_lines_of_a_function_are_counted() -> None:
    text = "@wraps(g)\ndef f(\n    x: int,\n) -> int:\n    def inner() -> None: ...\n\n    return x\n"
    assert dict(lengths(text)) == {"f": 6, "inner": 1}


def test_modules_of_the_tests_are_looked_at_too() -> None:
    assert Path(__file__).relative_to(ROOT).as_posix() in dict(modules())
