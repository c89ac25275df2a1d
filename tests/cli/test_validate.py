"""``lora-cli validate`` as operators and CI see it: what it prints, where that goes, and what it exits with."""

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from tests.cli.running import Run
from tests.cli.test_progress import on_a_terminal
from tests.hub_server import Hub
from tests.making import write_adapter
from tests.object_servers import S3Server

pytestmark = pytest.mark.usefixtures("judged_adapters")

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def team(tmp_path: Path) -> Path:
    """A folder of adapters, one in another, a link to one and a training run, beside others that are not entered."""
    for name in ("b", "in/a", "in/a/inner", "in/a/checkpoint-1", "run/checkpoint-9", "run/checkpoint-10", ".git/c"):
        write_adapter(tmp_path / "team" / name)
    (tmp_path / "team/linked").symlink_to("b")
    return tmp_path / "team"


def validated(run: Run, words: str, code: int = 0, base: str = "none") -> list[str]:
    """The names of the adapters that were judged."""
    document = run(f"validate {words} --base {base} --format json", code).document
    return [one["name"] for one in document["adapters"]]


def test_m4_a_folder_stands_for_the_adapters_below_it(team: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    assert validated(run, str(team)) == [f"{team}/{name}" for name in ("b", "in/a", "in/a/inner", "linked", "run")]
    monkeypatch.chdir(team)
    assert validated(run, "") == ["./b", "./in/a", "./in/a/inner", "./linked", "./run"]
    assert validated(run, "in/a") == ["in/a"]
    assert len(run("fetch .").out.splitlines()) == 5
    assert validated(run, team.as_uri()) == [f"{team.as_uri()}/{name}" for name in ("b", "in/a", "in/a/inner", "run")]
    Path("loose.safetensors").touch()
    assert validated(run, "", 1) == [".", "./b", "./in/a", "./in/a/inner", "./linked", "./run"]
    assert validated(run, "loose.safetensors", 1) == ["."]


def test_m3_a_prefix_or_a_repository_stands_for_the_adapters_below_it(
    team: Path, seaweed_server: S3Server, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    paths = [Path(folder, name) for folder, _, names in os.walk("team") if ".git" not in folder for name in names]
    content = {path.relative_to("team").as_posix(): path.read_bytes() for path in paths}
    bucket = seaweed_server.bucket()
    seaweed_server.put(bucket, {f"team/{path}": data for path, data in content.items()})
    with Hub() as hub:
        hub.add("acme/team", content)
        for name, value in {**seaweed_server.environ, "HF_ENDPOINT": hub.endpoint}.items():
            monkeypatch.setenv(name, value)
        for ref in (f"s3://{bucket}/team", "hf://acme/team"):
            found = [f"{ref}/b", f"{ref}/in/a", f"{ref}/in/a/inner", f"{ref}/run"]
            assert validated(run, ref)[:3] == found[:3]
            entries = yaml.safe_load(run(f"init {ref} -o -").out)["adapters"]
            found[3] += "/checkpoint-latest"
            names = ["b", "a", "inner", "run"]
            assert [(one["name"], one["source"]) for one in entries] == list(zip(names, found, strict=True))
        listings = hub.count("/api/models/")
        assert validated(run, "hf://acme/team/b") == ["hf://acme/team/b"]
        assert hub.count("/api/models/") == listings + 1
        (entry,) = yaml.safe_load(run("init acme/team/b@main -o -").out)["adapters"]
        assert entry == {"name": "b", "source": "hf://acme/team/b@main"}
        told = run("fetch acme/team", 1).text
    assert "it has 4 adapters, in b, in/a, in/a/inner and 1 more: use hf://acme/team/b" in told


def test_files_and_names_stand_for_their_adapters(run: Run) -> None:
    files = " ".join(f"{folder}/{name}" for folder in ("good", "bad") for name in (CONFIG, WEIGHTS))
    assert validated(run, files, 1, "base") == ["good", "bad"]
    entries = "{name: fine, source: ./good}, {name: broken, source: ./bad}"
    Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: [{entries}]\n")
    assert validated(run, "-f set.yaml fine") == ["fine"]
    assert validated(run, "-f set.yaml", 1, "base") == ["fine", "broken"]
    shards = [validated(run, f"-f set.yaml fine --shard {index}/2") for index in (0, 1)]
    assert sorted(name for part in shards for name in part) == ["fine"]
    run("fetch -f set.yaml fine")
    written = " ".join(f"--format {name}=out.{name}" for name in ("json", "junit", "sarif", "github", "html"))
    assert "broken is not locked" in run(f"validate -f set.yaml fine --base none --strict {written}", 1).err
    assert json.loads(Path("out.json").read_text())["exit_code"] == 1
    for name in ("json", "junit", "sarif", "github", "html"):
        assert "broken is not locked" in Path(f"out.{name}").read_text()
    assert ET.parse("out.junit").getroot().attrib.items() >= {"tests": "2", "failures": "1"}.items()
    Path("notes.txt").touch()
    assert run("validate --changed-files --base none notes.txt").out == "no adapters\n"


@pytest.mark.parametrize(
    ("words", "code"),
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
def test_the_exit_code_is_of_what_was_asked_for(words: str, code: int, run: Run) -> None:
    assert "file://" not in run(f"validate --base base {words}", code).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("good --select LC9", "unknown rule"),
        ("-f set.yaml god", "has no adapter 'god'\nhint: did you mean good?"),
        ("good --format sarf", "did you mean sarif?"),
        ("good --format json=", "--format json=FILE"),
        ("good --format json --format sarif", "--format sarif=FILE"),
        ("good --format json=a.json --format sarif=a.json", "json and sarif would be mixed"),
        ("-f set.yaml --changed-files", "--changed-files is for REFs"),
        ("-f set.yaml --manifest=other.yaml", "is given twice"),
    ],
)
def test_a_wrong_command_line_ends_with_2(words: str, said: str, run: Run) -> None:
    Path("set.yaml").write_text("apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: [{name: good, source: ./good}]\n")
    out, err = run(f"validate --base base {words}", 2)
    assert (out, said in err) == ("", True), err


def test_without_a_network_the_adapter_is_judged_and_its_base_is_unchecked(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    assert "1 adapter: 1 unchecked" in run("validate good").text
    assert "LC302" in run("validate bad", 1).text


@pytest.mark.parametrize(("file", "torn", "gone"), [(WEIGHTS, "LC102", "LC101"), (CONFIG, "LC107", "LC106")])
def test_what_cannot_be_read_is_reported_whatever_is_selected(file: str, torn: str, gone: str, run: Run) -> None:
    line = "validate good --base base --select LC5"
    Path("good", file).write_bytes(b"")
    assert torn in run(line, 1).out
    Path("good", file).unlink()
    assert gone in run(line, 1).out
    if file == WEIGHTS:
        Path("good/adapter_model.bin").write_bytes(b"cos\nsystem\n(S'id'\ntR.")
        assert "LC108" in run(line, 1).out


def test_one_run_writes_several_formats(run: Run) -> None:
    Path("real.json").write_text("old")
    Path("r.json").symlink_to("real.json")
    files = " ".join(
        f"--format {one}" for one in ["sarif=r.sarif", "junit=r.xml", "json=r.json", "human=r.txt", "html=r.html"]
    )
    assert run(f"validate good bad ./gone --base base --format github {files}", 3).out.startswith("::error ")
    assert json.loads(Path("r.sarif").read_text())["version"] == "2.1.0"
    assert ET.parse("r.xml").getroot().get("failures") == "1"
    assert "3 adapters: 1 ok, 1 failed, 1 not read; 1 without a row: -v" in Path("r.txt").read_text()
    assert {"LC302", "bad"} <= {*re.findall(r"\w+", Path("r.html").read_text())}
    assert Path("r.json").is_symlink(), "it is replaced through the link"
    document = json.loads(Path("real.json").read_text())
    assert (document["schema"], document["base"]["model_type"]) == ("lora_cli/validate/1", "llama")
    assert [one["exit_code"] for one in document["adapters"]] == [0, 1, 3]
    assert [one["applied"] for one in document["adapters"][:2]] == [{"matched": 14, "total": 14}] * 2
    (finding, *_) = document["adapters"][1]["findings"]
    assert (finding["code"], finding["file"], finding["field"]) == ("LC302", WEIGHTS, "model.layers.0.self_attn.q_proj")
    assert finding["hint"] == "a part of the adapter is missing: save or convert it again"
    assert ([one["outcome"] for one in document["adapters"]], document["exit_code"]) == (["ok", "refused", "failed"], 3)


def test_github_also_appends_to_the_summary_of_the_job(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    summary, line = Path("summary.md"), "validate good bad --base base --format github"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    out, err = run(line, 1)
    assert (out.startswith("::error "), err) == (True, "the summary is in GITHUB_STEP_SUMMARY\n")
    assert summary.read_text().startswith("before\n### lora-cli validate")
    summary.write_text("x" * 1024 * 1024)
    assert "is full" in run(line, 1).err
    assert summary.stat().st_size == 1024 * 1024


def test_every_report_says_that_a_version_is_newer_than_all_profiles(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    line, files = "validate good good --base base --engine vllm@99", ["out.json", "out.junit", "out.sarif", "out.html"]
    out = run(f"{line} --format github {' '.join(f'--format {file[4:]}={file}' for file in files)}").out
    said = [out, run(line).err, *(Path(file).read_text() for file in (*files, "summary.md"))]
    assert ["vllm@99: newer than the newest profile: validated as" in one for one in said] == [True] * 7


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("no/such/folder.json", "no/such/folder.json cannot be written"),
        ("good", "good cannot be written"),
        ("/dev/full", "/dev/full cannot be written: No space left on device\nhint: free some space there"),
    ],
)
def test_a_file_that_cannot_be_written_is_6(file: str, told: str, run: Run) -> None:
    out, err = run(f"validate good --base base --format json={file} --format human", 6)
    assert (out, told in err) == ("", True)


def test_a_pipe_gets_whole_lines_and_colour_only_where_it_is_forced_and_an_ascii_one_no_failure() -> None:
    def piped(*words: str, **environment: str) -> bytes:
        command = [sys.executable, "-m", "lora_cli", "validate", "bad", "--base", "base", *words]
        done = subprocess.run(
            command, capture_output=True, env={**os.environ, "COLUMNS": "", **environment}, check=False
        )
        assert done.returncode == 1
        return done.stdout

    shutil.copytree("good", "good" * 30)
    assert b"good" * 30 + b"  ok" in piped("good" * 30, "-v", PYTHONIOENCODING="ascii", TERM="xterm")
    assert b"\x1b" not in piped(PYTHONIOENCODING="ascii", TERM="xterm")
    assert b"\x1b[31mfailed" in piped(FORCE_COLOR="1")
    assert json.loads(piped("--format", "json=/dev/stdout"))["exit_code"] == 1


def test_a_terminal_gets_colour_unless_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (40, 200):  # the outcome on a line of its own, and beside the name
        assert "\x1b[31mfailed" in on_a_terminal(["validate", "bad", "--base", "base"], columns, 24)[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in on_a_terminal(["validate", "bad", "--base", "base"], 200, 24)[1]
