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
    """Each function's name and its lines, without decorators; a command's signature has as many as it has options."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            first = node.body[0].lineno if node.args.args and node.args.args[0].arg == "ctx" else node.lineno
            yield node.name, node.end_lineno - first + 1


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


def private_imports(text: str) -> Iterator[str]:
    """Modules and names that begin with an underscore, of other packages."""
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if "._" in f".{name}" and not name.startswith("lora_cli."))


def test_no_private_module_of_any_package_is_imported() -> None:
    found = {
        path: names for path, text in modules() if path.startswith("lora_cli/") and (names := [*private_imports(text)])
    }
    assert found == {}
    assert [*private_imports("import typer._click\nfrom typer._click import x\nfrom torch import _C")] == [
        "typer._click", "typer._click.x", "torch._C",
    ]  # fmt: skip
