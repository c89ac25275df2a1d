"""The main job on real input: the committed adapters, the demo and the README as they are documented."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import QUICKSTART, ROOT
from tests.readme import BLOCK, PICTURE, README, session, shortened, without_numbers

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


def test_the_demo_proves_two_adapters_and_reports_the_broken_one(demo: str) -> None:
    assert "60/60" in demo  # pirate: q and v of 30 layers
    assert "90/90" in demo  # zubrowka: q, v and down
    assert "0/4" in demo  # misnested
    assert "Exit code 1, as expected" in demo


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


def test_the_readme_shows_what_is_printed() -> None:
    blocks = {found[1]: found["said"] for found in BLOCK.finditer(README.read_text(encoding="utf-8")) if found["said"]}
    assert len(blocks) == 3
    for printed, said in zip(session([*blocks]), blocks.values(), strict=True):
        assert without_numbers(shortened(printed, said)) == without_numbers(said)
    picture = " ".join(re.sub("<[^>]+>|&#160;", " ", PICTURE.read_text(encoding="utf-8")).split())
    assert "0 of 4 modules apply to HuggingFaceTB/SmolLM2-135M-Instruct" in picture


def test_the_committed_lock_is_that_of_the_committed_adapters(tmp_path: Path) -> None:
    manifest = "manifests/quickstart.yaml"
    for option in ("--check", "--locked"):
        done = run("-m", "lora_cli", "--cache-dir", str(tmp_path), "fetch", "-f", manifest, option)
        assert done.returncode == 0, done.stdout + done.stderr
