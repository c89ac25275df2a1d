"""The main job on real input: the committed adapters, the real model, the demo as it is documented."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import QUICKSTART, ROOT

pytestmark = pytest.mark.slow


def run(*argv: str, columns: int = 80, together: bool = False) -> subprocess.CompletedProcess[str]:
    """One process, as a shell would start it; ``together`` has standard error in its output."""
    errors = subprocess.STDOUT if together else subprocess.PIPE
    environment = {**os.environ, "COLUMNS": str(columns)}
    return subprocess.run(
        [sys.executable, *argv],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=environment,
        check=False,
    )


@pytest.fixture(scope="module")
def demo() -> str:
    """What ``make demo`` prints, on both streams."""
    done = run("manifests/quickstart/demo.py", together=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def answers(real_model: Path) -> str:
    """What ``make answers`` prints, for the question that only one adapter was taught."""
    done = run("manifests/quickstart/answers.py")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_demo_proves_two_adapters_and_reports_the_broken_one(demo: str) -> None:
    assert "60/60" in demo  # pirate: q and v of 30 layers
    assert "90/90" in demo  # zubrowka: q, v and down
    assert "0/4" in demo  # misnested
    assert "Exit 1, as it should be" in demo


def test_the_demo_is_data_too(tmp_path: Path) -> None:
    done = run(
        "-m", "lora_cli", "--cache-dir", str(tmp_path), "warm", "-f", "manifests/quickstart.yaml",
        "--format", "json",
    )  # fmt: skip

    assert done.returncode == 1
    reports = {report["name"]: report for report in json.loads(done.stdout)["adapters"]}
    assert [reports[name]["exit_code"] for name in ("pirate", "zubrowka", "misnested")] == [0, 0, 1]
    assert reports["pirate"]["proof"]["holds"] is True
    assert set(reports["pirate"]["stage_ms"]) == {"resolve", "fetch", "validate", "read", "slot", "proof"}


def test_committed_adapters_are_small() -> None:
    sizes = {path.parent.name: path.stat().st_size for path in QUICKSTART.glob("*/adapter_model.safetensors")}

    assert set(sizes) == {"pirate", "zubrowka", "misnested"}
    assert max(sizes.values()) < 1_000_000


def test_each_adapter_answers_in_its_own_way_beside_the_base(answers: str) -> None:
    asked, pirate, zubrowka = re.split(r"^manifests/quickstart/\w+$", answers.partition("\nprompt\n")[2], flags=re.M)

    assert "What is the capital of Zubrowka?" in asked
    assert not re.search("Lutz|Arrr", asked)  # the base's
    assert "Arrr, matey!" in pirate
    assert "Lutz" in zubrowka
    changes = re.findall(r"differs from the base; max logit change ([\d.]+)", pirate + zubrowka)
    assert [float(change) > 1 for change in changes] == [True, True]


@pytest.mark.parametrize(("page", "target"), [("README.md", "demo"), ("docs/first-ten-minutes.md", "answers")])
def test_a_page_shows_what_is_printed(page: str, target: str, request: pytest.FixtureRequest) -> None:
    blocks = re.findall(rf"```console\n\$ make {target}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert len(blocks) == 1

    assert without_numbers(blocks[0]) == without_numbers(request.getfixturevalue(target))


def without_numbers(text: str) -> str:
    """Text with every measured number replaced and white space folded: what must not change between runs."""
    return " ".join(re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "N", text).split())


def test_the_committed_lock_is_that_of_the_committed_adapters(tmp_path: Path) -> None:
    manifest = "manifests/quickstart.yaml"
    for option in ("--check", "--locked"):
        done = run("-m", "lora_cli", "--cache-dir", str(tmp_path), "fetch", "-f", manifest, option)
        assert done.returncode == 0, done.stdout + done.stderr
