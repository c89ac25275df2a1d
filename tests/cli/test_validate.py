"""``lora-cli validate`` as operators and CI see it: what it prints, where that goes, and what it exits with."""

import json
import os
import pty
import subprocess
import sys
import xml.etree.ElementTree as ET
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import yaml

from lora_cli.cli.main import main
from tests.cli.test_startup import modules_after
from tests.hub_server import Hub
from tests.making import llama_modules, lora_tensors, raw, write_adapter, write_base_config
from tests.object_servers import S3Server

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``base``, and ``good``; ``bad``, whose B is missing; and ``loud``, whose B is too large: a warning."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    write_base_config(tmp_path / "base")
    tensors = lora_tensors(llama_modules())
    larger = {name: raw(np.full(one.shape, 1000.0)) for name, one in tensors.items() if "lora_B" in name}
    write_adapter(tmp_path / "good", modules=llama_modules())
    write_adapter(tmp_path / "bad", modules=llama_modules(), drop=lambda name: "lora_B" in name)
    write_adapter(tmp_path / "loud", modules=llama_modules(), tensors=larger)


def validate(line: str) -> int:
    return main(["validate", "--base", "base", *line.split()])


@pytest.fixture
def team(tmp_path: Path) -> Path:
    """A folder of two adapters, a link to one and a training run, beside others that are not entered."""
    for name in ("b", "in/a", "in/a/inner", "run/checkpoint-9", "run/checkpoint-10", ".git/c"):
        write_adapter(tmp_path / "team" / name)
    (tmp_path / "team/linked").symlink_to("b")
    return tmp_path / "team"


def validated(capsys: Capture, *argv: str, base: str = "none", code: int = 0) -> list[str]:
    """The names of the adapters that were judged."""
    capsys.readouterr()
    assert main(["validate", *argv, "--base", base, "--format", "json"]) == code
    return [one["name"] for one in json.loads(capsys.readouterr().out)["adapters"]]


def test_m4_a_folder_stands_for_the_adapters_below_it(
    team: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert validated(capsys, str(team)) == [f"{team}/b", f"{team}/in/a", f"{team}/linked", f"{team}/run"]
    monkeypatch.chdir(team)
    assert validated(capsys) == ["./b", "./in/a", "./linked", "./run"]
    assert main(["fetch", "."]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert validated(capsys, team.as_uri()) == [f"{team.as_uri()}/{name}" for name in ("b", "in/a", "run")]


def test_m3_a_prefix_or_a_repository_stands_for_the_adapters_below_it(
    team: Path, seaweed_server: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(team.parent)
    paths = [Path(folder, name) for folder, _, names in os.walk("team") if ".git" not in folder for name in names]
    content = {path.relative_to("team").as_posix(): path.read_bytes() for path in paths}
    bucket = seaweed_server.bucket()
    seaweed_server.put(bucket, {f"team/{path}": data for path, data in content.items()})
    with Hub() as hub:
        hub.add("acme/team", content)
        for name, value in {**seaweed_server.environ, "HF_ENDPOINT": hub.endpoint}.items():
            monkeypatch.setenv(name, value)
        for ref in (f"s3://{bucket}/team", "hf://acme/team"):
            found = [f"{ref}/b", f"{ref}/in/a", f"{ref}/run"]
            assert validated(capsys, ref)[:2] == found[:2]
            assert main(["init", ref, "-o", "-"]) == 0
            entries = yaml.safe_load(capsys.readouterr().out)["adapters"]
            found[2] += "/checkpoint-latest"
            assert [(one["name"], one["source"]) for one in entries] == list(zip(["b", "a", "run"], found, strict=True))
        listings = hub.count("/api/models/")
        assert validated(capsys, "hf://acme/team/b") == ["hf://acme/team/b"]
        assert hub.count("/api/models/") == listings + 1
        assert main(["fetch", "acme/team"]) == 1
    assert "it has 3 adapters, in b, in/a, run: use hf://acme/team/b" in " ".join(capsys.readouterr().err.split())


def test_files_and_names_stand_for_their_adapters(capsys: Capture) -> None:
    files = [f"{folder}/{name}" for folder in ("good", "bad") for name in (CONFIG, WEIGHTS)]
    assert validated(capsys, *files, base="base", code=1) == ["good", "bad"]
    entries = "{name: fine, source: ./good}, {name: broken, source: ./bad}"
    Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: [{entries}]\n")
    assert validated(capsys, "-f", "set.yaml", "fine", base="base") == ["fine"]
    assert validated(capsys, "-f", "set.yaml", base="base", code=1) == ["fine", "broken"]
    shards = [validated(capsys, "-f", "set.yaml", "fine", "--shard", f"{index}/2") for index in (0, 1)]
    assert sorted(name for part in shards for name in part) == ["fine"]
    Path("notes.txt").touch()
    assert main(["validate", "--changed-files", "--base", "none", "notes.txt"]) == 0
    assert capsys.readouterr().out == "no adapters\n"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("good/", 0),
        ("loud", 0),
        ("loud --fail-on warning", 1),
        ("loud --fail-on warning --ignore huge-update", 0),
        ("loud --fail-on warning --no-values", 0),
        ("bad --select LC1,LC2", 0),
        ("bad --select pair-incomplete", 1),
        ("good bad ./gone", 3),
    ],
)
def test_the_exit_code_is_of_what_was_asked_for(line: str, code: int, capsys: Capture) -> None:
    assert validate(line) == code
    assert "file://" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("good --select LC9", "unknown rule"),
        ("-f set.yaml god", "has no adapter 'god'\nhint: did you mean good?"),
        ("good --format xml", "--format xml is not FORMAT or FORMAT=FILE"),
        ("good --format sarf", "did you mean sarif?"),
        ("good --format json=", "--format json=FILE"),
        ("good --format json,sarif=a", "is not FORMAT or FORMAT=FILE"),
        ("good --format json --format sarif", "--format sarif=FILE"),
        ("good --format json=a.json --format sarif=a.json", "json and sarif would be mixed"),
        ("-f set.yaml --changed-files", "--changed-files is for REFs"),
    ],
)
def test_a_wrong_command_line_ends_with_2(line: str, said: str, capsys: Capture) -> None:
    Path("set.yaml").write_text("apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: [{name: good, source: ./good}]\n")
    assert validate(line) == 2
    out, err = capsys.readouterr()
    assert (out, said in err) == ("", True), err


@pytest.mark.parametrize(("file", "torn", "gone"), [(WEIGHTS, "LC102", "LC101"), (CONFIG, "LC107", "LC106")])
def test_what_cannot_be_read_is_reported_whatever_is_selected(file: str, torn: str, gone: str, capsys: Capture) -> None:
    Path("good", file).write_bytes(b"")
    assert validate("good --select LC5,pair-incomplete") == 1
    assert torn in capsys.readouterr().out
    Path("good", file).unlink()
    assert validate("good --select LC5") == 1
    assert gone in capsys.readouterr().out
    if file == WEIGHTS:
        Path("good/adapter_model.bin").write_bytes(b"cos\nsystem\n(S'id'\ntR.")
        assert validate("good --select LC3 --select LC5") == 1
        assert "LC108" in capsys.readouterr().out


def test_one_run_writes_several_formats(capsys: Capture) -> None:
    Path("real.json").write_text("old")
    Path("r.json").symlink_to("real.json")
    files = ("sarif=r.sarif", "junit=r.xml", "json=r.json", "human=r.txt")
    assert validate(f"good bad ./gone --format github {' '.join(f'--format {file}' for file in files)}") == 3
    assert capsys.readouterr().out.startswith("::error ")
    assert json.loads(Path("r.sarif").read_text())["version"] == "2.1.0"
    assert ET.parse("r.xml").getroot().get("failures") == "1"
    assert "3 adapters: 1 ok, 1 failed, 1 not read; 1 without a row: -v" in Path("r.txt").read_text()
    assert Path("r.json").is_symlink(), "it is replaced through the link"
    document = json.loads(Path("real.json").read_text())
    assert (document["schema"], document["base"]["model_type"]) == ("lora_cli/validate/1", "llama")
    assert [one["exit_code"] for one in document["adapters"]] == [0, 1, 3]
    assert [one["applied"] for one in document["adapters"][:2]] == [{"matched": 14, "total": 14}] * 2
    (finding, *_), summary = document["adapters"][1]["findings"], document["summary"]
    assert finding == {
        "code": "LC302", "name": "pair-incomplete", "severity": "error", "message": finding["message"],
        "file": WEIGHTS, "field": "model.layers.0.self_attn.q_proj", "accepted": None, "effects": {},
        "hint": "a part of the adapter is missing: save or convert it again", "fingerprint": finding["fingerprint"],
    }  # fmt: skip
    assert (summary["refused"], summary["failed"], summary["errors"], summary["exit_code"]) == (1, 1, 1, 3)


def test_places_are_from_the_root_of_the_repository_wherever_the_command_runs(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As annotations, SARIF and code quality reports are read; names, and baselines with them, are from here."""
    for name in (".git", "ci"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "ci")
    assert main(["validate", "../bad", "--base", "../base", "--format", "sarif=r.sarif", "--format", "github"]) == 1
    assert f"::error file=bad/{WEIGHTS},title=LC302" in capsys.readouterr().out
    (result, *_) = json.loads(Path("r.sarif").read_text())["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == f"bad/{WEIGHTS}"


def test_github_also_appends_to_the_summary_of_the_job(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    Path("summary.md").write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    assert validate("good bad --format github") == 1
    assert Path("summary.md").read_text().startswith("before\n### lora-cli validate")
    out, err = capsys.readouterr()
    assert (out.startswith("::error "), err) == (True, "the summary is in GITHUB_STEP_SUMMARY\n")
    Path("summary.md").write_text("x" * 1024 * 1024)
    assert validate("good bad --format github") == 1
    assert (Path("summary.md").stat().st_size, "is full" in capsys.readouterr().err) == (1024 * 1024, True)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("no/such/folder.json", "no/such/folder.json cannot be written"),
        ("good", "good cannot be written"),
        ("/dev/full", "/dev/full cannot be written: No space left on device\nhint: free some space there"),
    ],
)
def test_a_file_that_cannot_be_written_is_6(file: str, told: str, capsys: Capture) -> None:
    assert validate(f"good --format json={file} --format human") == 6
    out, err = capsys.readouterr()
    assert (out, told in err) == ("", True)


def test_no_line_of_the_text_is_a_command_to_a_ci_server(capsys: Capture) -> None:
    name = f"model.{'x' * 60} ::stop-commands::a ##[add-mask]b ##vso[task.setvariable]c.q_proj"
    write_adapter(Path("evil"), modules={name: (64, 64)})
    assert validate("evil") == 1
    out = capsys.readouterr().out
    assert not [said for said in out.splitlines() if said.lstrip().startswith("::")]
    assert r"\x3a:stop-commands::a" in out
    assert not [word for word in ("##[", "##vso[") if word in out]


def piped(line: str, **environment: str) -> bytes:
    words = [sys.executable, "-m", "lora_cli", "validate", "--base", "base", *line.split()]
    done = subprocess.run(words, capture_output=True, env={**os.environ, **environment}, check=False)
    assert done.returncode == 1
    return done.stdout


def test_a_pipe_gets_colour_only_where_it_is_forced_and_an_ascii_one_no_failure() -> None:
    assert b"\x1b" not in piped("bad", PYTHONIOENCODING="ascii", TERM="xterm")
    assert b"\x1b[31mfailed" in piped("bad", FORCE_COLOR="1")
    assert json.loads(piped("bad --format json=/dev/stdout"))["summary"]["adapters"] == 1


def on_a_terminal(**environment: str) -> bytes:
    """What a command writes when its output is a terminal."""
    parent, child = pty.openpty()
    words = [sys.executable, "-m", "lora_cli", "validate", "bad", "--base", "base"]
    environ = {**os.environ, "TERM": "xterm", **environment}
    with subprocess.Popen(words, stdout=child, stderr=subprocess.DEVNULL, env=environ):
        os.close(child)
        written = b""
        with suppress(OSError):  # how a terminal says that its program has gone
            while chunk := os.read(parent, 65536):
                written += chunk
    os.close(parent)
    return written


@pytest.mark.slow
def test_a_terminal_gets_colour_unless_told_not_to() -> None:
    for width in ("40", "200"):  # the outcome on a line of its own, and beside the name
        assert b"\x1b[31mfailed" in on_a_terminal(COLUMNS=width)
    assert b"\x1b" not in on_a_terminal(NO_COLOR="1") + on_a_terminal(TERM="dumb")


def test_what_is_not_needed_is_not_imported() -> None:
    code = "from lora_cli.cli.main import main\nassert main('validate good --base base'.split()) == 0"
    heavy = {"yaml", "http.client", "huggingface_hub", "torch", "transformers", "regex", "xml.etree.ElementTree"}
    found = modules_after(f"{code}\nimport sys\nfor name in ('json', 'sarif', 'junit', 'github', 'markdown'):\n"
                          "    assert f'lora_cli.reports.{name}' not in sys.modules")  # fmt: skip
    assert not found & heavy
