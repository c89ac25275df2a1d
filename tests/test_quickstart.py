"""The main job on real input: the committed adapters, the demo and the README as they are documented."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.conftest import ROOT
from tests.readme import BLOCK, PICTURE, README, session, shortened, without_numbers

pytestmark = pytest.mark.slow


def test_the_demo_proves_two_adapters_and_reports_the_broken_one() -> None:
    command = [sys.executable, "manifests/quickstart/demo.py"]
    environ = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "60/60" in done.stdout  # pirate: q and v of 30 layers
    assert "90/90" in done.stdout  # zubrowka: q, v and down
    assert "0/4" in done.stdout  # misnested
    assert "Exit code 1, as expected" in done.stdout


def test_the_readme_shows_what_is_printed() -> None:
    blocks = {found[1]: found["said"] for found in BLOCK.finditer(README.read_text(encoding="utf-8")) if found["said"]}
    assert len(blocks) == 3
    for printed, said in zip(session([*blocks]), blocks.values(), strict=True):
        assert without_numbers(shortened(printed, said)) == without_numbers(said)
    picture = " ".join(re.sub("<[^>]+>|&#160;", " ", PICTURE.read_text(encoding="utf-8")).split())
    assert "0 of 4 modules apply to HuggingFaceTB/SmolLM2-135M-Instruct" in picture


def test_the_committed_lock_is_that_of_the_committed_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for option in ("--check", "--locked"):
        assert main(["--cache-dir", str(tmp_path), "fetch", "-f", "manifests/quickstart.yaml", option]) == 0
