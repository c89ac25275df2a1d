"""Start-up is a feature: nothing heavy is imported before it is needed, and a whole process stays within its budget."""

import os
import resource
import subprocess
import sys

import pytest

from tests.conftest import QUICKSTART

HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "s3fs",
    "huggingface_hub",
    "obstore",
    "pydantic",
    "httpx2",
    "http.client",
    "yaml",
    "rich",
)


def modules_after(code: str) -> set[str]:
    """The top-level packages that are imported once ``code`` has run in a fresh interpreter."""
    report = "\nimport sys\nsys.stderr.write(' '.join({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_the_app_imports_nothing_heavy() -> None:
    assert not modules_after("import lora_cli.cli.main") & set(HEAVY)


@pytest.mark.parametrize("argv", [["--version"], ["rules", "LC101"], ["fetch", "./nowhere"], ["inspect", "./nowhere"]])
def test_a_plain_command_line_starts_without_typer_and_what_it_imports(argv: list[str]) -> None:
    imported = modules_after(f"from lora_cli.cli.main import main\nmain({argv!r})")
    assert not imported & {*HEAVY, "typer", "dataclasses", "inspect"} - ({"inspect"} if argv[0] == "rules" else set())


@pytest.mark.parametrize("argv", [["--version"], ["--help"], ["validate", "--help"], ["fetch", "--help"]])
def test_help_imports_nothing_heavy(argv: list[str]) -> None:
    assert not modules_after(f"from lora_cli.cli.main import main\nmain({argv!r})") & set(HEAVY)


LOOP = ["-c", "total = 0\nfor number in range(2_000_000): total += number"]
LOOP_S = 0.133
"""Processor seconds of that loop, over a bare interpreter, on the quiet machine that the budgets are for."""


def spent(argv: list[str]) -> float:
    """What one whole process costs with its bytecode cached: user and system time."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *argv], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def is_within(argv: list[str], budget_s: float, *, over_bare: bool = False) -> bool:
    """Whether the least of many runs is within the budget, which grows by as much as a plain loop is slower here now.

    A neighbour on the same processor makes a run dearer, never cheaper; a slower processor does so to the loop as well.
    """
    bare, loop, least = float("inf"), float("inf"), float("inf")
    for _ in range(30):
        bare, loop, least = min(bare, spent(["-c", "pass"])), min(loop, spent(LOOP)), min(least, spent(argv))
        slower = max(1.0, (loop - bare) / LOOP_S)
        if least <= budget_s * slower + (bare if over_bare else 0.0):
            return True
    return False


def test_the_version_costs_at_most_40_ms_more_than_a_bare_interpreter() -> None:
    assert is_within(["-m", "lora_cli", "--version"], 0.04, over_bare=True)


def test_validating_a_small_adapter_costs_at_most_100_ms() -> None:
    adapter, base = str(QUICKSTART / "pirate"), str(QUICKSTART / "smollm2-135m")

    assert is_within(["-m", "lora_cli", "validate", adapter, "--base", base], 0.1)
