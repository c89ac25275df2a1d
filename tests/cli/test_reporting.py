"""Which formats ``validate`` writes in one run, and where each goes."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.making import llama_modules, write_adapter, write_base_config


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line over a good and a bad adapter, in the folder that they are in."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.chdir(tmp_path)
    write_base_config(tmp_path / "base")
    write_adapter(tmp_path / "good", modules=llama_modules())
    write_adapter(tmp_path / "bad", modules=llama_modules(), drop=lambda name: "lora_B" in name)
    return ["validate", "good", "bad", "--base", "base"]


def test_one_run_writes_several_formats(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    files = ("sarif=r.sarif", "junit=r.xml", "json=r.json", "human=r.txt")
    assert main([*line, "--format", "github", *[word for file in files for word in ("--format", file)]]) == 1

    assert capsys.readouterr().out.startswith("::error file=bad/adapter_model.safetensors,title=LC302")
    assert json.loads(Path("r.sarif").read_text())["version"] == "2.1.0"
    assert ET.parse("r.xml").getroot().get("failures") == "1"
    assert json.loads(Path("r.json").read_text())["summary"]["refused"] == 1
    assert Path("r.txt").read_text().splitlines()[-1].startswith("2 adapters (1 ok, 1 refused)")


def test_places_are_from_the_root_of_the_repository_wherever_the_command_runs(
    line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As annotations, SARIF and code quality reports are read; names, and baselines with them, are from here."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "ci").mkdir()
    monkeypatch.chdir(tmp_path / "ci")
    argv = ["validate", "../bad", "--base", "../base", "--format", "sarif=r.sarif", "--format", "github"]
    assert main(argv) == 1
    assert "::error file=bad/adapter_model.safetensors,title=LC302" in capsys.readouterr().out
    (result, *_) = json.loads(Path("r.sarif").read_text())["runs"][0]["results"]
    where = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert where["uri"] == "bad/adapter_model.safetensors"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--format", "xml"], "xml is not a format"),
        (["--format", "sarf"], "did you mean sarif?"),
        (["--format", "json="], "--format json= has no file"),
        (["--format", "json,sarif=a"], "repeat --format for each; in LORA_CLI_FORMAT separate them with blanks"),
        (["--format", "sarif=a,json"], "--format sarif=a,json has several formats with commas between them"),
        (["--format", "json", "--format", "sarif"], "--format sarif=FILE"),
        (["--format", "json=a.json", "--format", "sarif=a.json"], "json and sarif would be mixed"),
    ],
)
def test_what_would_be_mixed_is_refused(
    line: list[str], argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*line, *argv]) == 2

    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_github_also_appends_to_the_summary_of_the_job(
    line: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("summary.md").write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")

    assert main([*line, "--format", "github"]) == 1
    assert Path("summary.md").read_text().startswith("before\n### lora-cli validate")
    captured = capsys.readouterr()
    assert captured.out.startswith("::error ")
    assert captured.err == "the summary is in GITHUB_STEP_SUMMARY\n"

    Path("summary.md").write_text("x" * 1024 * 1024)
    assert main([*line, "--format", "github"]) == 1
    assert Path("summary.md").stat().st_size == 1024 * 1024
    assert "is full" in capsys.readouterr().err


def test_a_report_is_replaced_in_one_step_and_through_a_link(line: list[str]) -> None:
    Path("real.json").write_text("old")
    Path("link.json").symlink_to("real.json")
    before = Path("real.json").stat().st_ino

    assert main([*line, "--format", "json=link.json"]) == 1
    assert Path("link.json").is_symlink()
    assert json.loads(Path("real.json").read_text())["summary"]["adapters"] == 2
    assert Path("real.json").stat().st_ino != before
    assert not [file for file in Path().iterdir() if file.name.startswith(".real")]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no such device here")
def test_a_file_on_a_full_disk_is_told_from_a_wrong_path(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*line, "--format", "json=/dev/full"]) == 6
    said = capsys.readouterr().err
    assert "/dev/full cannot be written: No space left on device\nhint: free some space there" in said


def test_a_file_that_cannot_be_written_is_said_before_the_work(
    line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ("no/such/folder.json", "good"):
        assert main([*line, "--format", f"json={file}", "--format", "human"]) == 6
        captured = capsys.readouterr()
        assert f"{file} cannot be written" in captured.err
        assert captured.out == ""


def test_a_pipe_is_written_to(line: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lora_cli", *line, "--format", "json=/dev/stdout"],
        capture_output=True, check=False,
    )  # fmt: skip

    assert (done.returncode, json.loads(done.stdout)["summary"]["adapters"]) == (1, 2)


def test_no_line_of_the_text_is_a_command_to_a_ci_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"model.{'x' * 60} ::stop-commands::a ##[add-mask]b ##vso[task.setvariable]c.q_proj"
    evil = write_adapter(tmp_path / "evil", modules={name: (64, 64)})

    assert main(["validate", str(evil), "--base", str(write_base_config(tmp_path / "base"))]) == 1

    out = capsys.readouterr().out
    assert not [said for said in out.splitlines() if said.lstrip().startswith("::")]
    assert r"\x3a:stop-commands::a" in out
    assert "##[" not in out
    assert "##vso[" not in out


def test_a_format_that_was_not_asked_for_is_not_imported(line: list[str]) -> None:
    code = f"import sys\nfrom lora_cli.cli.main import main\nmain({line!r})\nsys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = set(done.stderr.split())
    assert "lora_cli.reports.validate" in loaded
    for name in ("json", "sarif", "junit", "github", "markdown"):
        assert f"lora_cli.render.{name}" not in loaded
    assert "xml.etree.ElementTree" not in loaded


def test_blanks_separate_the_values_in_the_variable_of_an_option_that_may_be_repeated(
    line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_CLI_FORMAT", f"json sarif={tmp_path}/a.sarif")
    assert main(line) == 1
    assert json.loads(capsys.readouterr().out)["schema"].startswith("lora_cli/")
    assert (tmp_path / "a.sarif").is_file()
    monkeypatch.setenv("LORA_CLI_FORMAT", f"json,sarif={tmp_path}/b.sarif")
    assert main(line) == 2
    assert "in LORA_CLI_FORMAT separate them with blanks" in capsys.readouterr().err
