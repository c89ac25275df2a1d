"""What ``lora-cli repair`` tells people."""

from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.conftest import ROOT
from tests.making import llama_modules, write_adapter

Capture = pytest.CaptureFixture[str]
QUICKSTART = ROOT / "manifests" / "quickstart"


@pytest.mark.parametrize("width", [40, 80, 160])
def test_people_read_what_changed_and_why_in_any_width(
    width: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    base = str(QUICKSTART / "smollm2-135m")
    assert main(["repair", str(QUICKSTART / "zubrowka"), "--engine", "sglang", "--base", base, "--check"]) == 1
    told = capsys.readouterr().out
    assert "would be repaired for SGLang 0.5.23" in " ".join(told.split())
    assert "module scales folded into lora_B (11 modules)" in " ".join(told.split())
    assert "\x1b" not in told
    assert all(len(line) <= width or " " not in line.strip() for line in told.splitlines())


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
