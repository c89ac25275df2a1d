"""What ``lora-cli repair`` tells people."""

from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.conftest import ROOT
from tests.making import llama_modules, write_adapter

Capture = pytest.CaptureFixture[str]
QUICKSTART = ROOT / "manifests" / "quickstart"


def test_the_docs_show_what_it_prints(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "80")
    readme = (ROOT / "docs" / "inspect.md").read_text()
    shown = readme.partition("$ lora-cli repair ")[2].partition("```")[0]
    line, _, printed = shown.partition("\n")
    words = [word if word != "out/zubrowka" else str(tmp_path / "zubrowka") for word in line.split()]

    assert main(["repair", *words]) == 0

    told = capsys.readouterr().out
    assert told.partition("  written")[0] == printed.partition("  written")[0]


def test_one_cause_in_many_modules_is_told_once(tmp_path: Path, capsys: Capture) -> None:
    adapter = write_adapter(tmp_path / "sql", modules=llama_modules(), config={"rank_pattern": {".*_proj": 16}})
    assert main(["repair", str(adapter), "--engine", "vllm", "--check"]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("its rank is") == 1
    assert "and 13 more modules" in told
