"""``lora-cli validate`` as operators and CI see it: what it prints, and what it exits with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from lora_cli.cli.main import main
from tests.hub_server import Hub
from tests.making import llama_modules, lora_tensors, raw, write_adapter, write_base_config
from tests.object_servers import S3Server


@pytest.fixture
def base(tmp_path: Path) -> str:
    return str(write_base_config(tmp_path / "base"))


@pytest.fixture
def good(tmp_path: Path) -> str:
    return str(write_adapter(tmp_path / "good", modules=llama_modules()))


@pytest.fixture
def bad(tmp_path: Path) -> str:
    """B is missing everywhere."""
    return str(write_adapter(tmp_path / "bad", modules=llama_modules(), drop=lambda name: "lora_B" in name))


@pytest.fixture
def loud(tmp_path: Path) -> str:
    """B is a thousand times too large: a warning."""
    tensors = lora_tensors(llama_modules())
    larger = {name: raw(np.full(one.shape, 1000.0)) for name, one in tensors.items() if "lora_B" in name}
    return str(write_adapter(tmp_path / "loud", modules=llama_modules(), tensors=larger))


def test_a_folder_with_its_slash_is_told_once(good: str, base: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", f"{good}/", "--base", base]) == 0
    assert "file://" not in capsys.readouterr().out


@pytest.fixture
def team(tmp_path: Path) -> Path:
    """A folder of two adapters, a link to one and a training run, beside others that are not entered."""
    for name in ("b", "in/a", "in/a/inner", "run/checkpoint-9", "run/checkpoint-10", ".git/c"):
        write_adapter(tmp_path / "team" / name)
    (tmp_path / "team/linked").symlink_to("b")
    return tmp_path / "team"


def validated(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    assert main(["validate", *argv, "--base", "none", "--format", "json"]) == 0
    return [one["name"] for one in json.loads(capsys.readouterr().out)["adapters"]]


def test_m4_a_folder_stands_for_the_adapters_below_it(
    team: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert validated(capsys, str(team)) == [f"{team}/b", f"{team}/in/a", f"{team}/linked", f"{team}/run"]
    monkeypatch.chdir(team)
    assert validated(capsys) == ["./b", "./in/a", "./linked", "./run"]
    assert main(["fetch", "."]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert validated(capsys, team.as_uri()) == [f"{team.as_uri()}/{name}" for name in ("b", "in/a", "run")]


def test_m3_a_prefix_or_a_repository_stands_for_the_adapters_below_it(
    team: Path, seaweed_server: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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


def test_names_choose_from_a_set(
    good: str, bad: str, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = f"{{name: good, source: {good}}}, {{name: bad, source: {bad}}}"
    (tmp_path / "set.yaml").write_text(
        f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: {base}\nadapters: [{entries}]\n"
    )
    argv = ["validate", "-f", str(tmp_path / "set.yaml")]
    assert main([*argv, "good"]) == 0
    assert "1 adapter (1 ok)" in capsys.readouterr().out
    assert main([*argv, "bad", "good"]) == 1
    assert main([*argv, "god"]) == 2
    assert "has no adapter 'god'\nhint: did you mean good?" in capsys.readouterr().err


def test_a_warning_refuses_only_when_asked(loud: str, base: str) -> None:
    assert main(["validate", loud, "--base", base]) == 0
    assert main(["validate", loud, "--base", base, "--fail-on", "warning"]) == 1
    assert main(["validate", loud, "--base", base, "--fail-on", "warning", "--ignore", "huge-update"]) == 0
    assert main(["validate", loud, "--base", base, "--fail-on", "warning", "--no-values"]) == 0


def test_only_the_selected_rules_judge(bad: str, base: str) -> None:
    assert main(["validate", bad, "--base", base, "--select", "LC1,LC2"]) == 0
    assert main(["validate", bad, "--base", base, "--select", "pair-incomplete"]) == 1


def test_what_cannot_be_read_is_reported_whatever_is_selected(
    bad: str, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, code in (("adapter_model.safetensors", "LC102"), ("adapter_config.json", "LC107")):
        kept = (Path(bad) / name).read_bytes()
        (Path(bad) / name).write_bytes(b"")
        assert main(["validate", bad, "--base", base, "--select", "LC5,pair-incomplete"]) == 1
        assert code in capsys.readouterr().out
        (Path(bad) / name).unlink()
        assert main(["validate", bad, "--base", base, "--select", "LC5"]) == 1
        (Path(bad) / name).write_bytes(kept)
    assert main(["validate", bad, "--base", base, "--select", "LC5"]) == 0


def test_a_hostile_pickle_in_place_of_the_weights_is_reported_whatever_is_selected(
    good: str, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = Path(good) / "adapter_model.safetensors"
    weights.unlink()
    weights.with_suffix(".bin").write_bytes(b"cos\nsystem\n(S'id'\ntR.")
    assert main(["validate", good, "--base", base, "--select", "LC3", "--select", "LC5"]) == 1
    assert "LC108" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["validate", "{good}", "--base", "{base}", "--shard", "2/2"], "shards are counted from 0"),
        (["validate", "{good}", "--base", "{base}", "--fail-on", "note"], "--fail-on"),
        (["validate", "{good}", "--base", "{base}", "--select", "LC9"], "unknown rule"),
    ],
)
def test_a_wrong_command_line_ends_with_2(
    argv: list[str], said: str, good: str, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.format(good=good, base=base) for word in argv]) == 2

    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_files_of_an_adapter_stand_for_its_folder_once(
    good: str, bad: str, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [
        f"{folder}/{name}" for folder in (good, bad) for name in ("adapter_config.json", "adapter_model.safetensors")
    ]

    assert main(["validate", *files, "--base", base, "--format", "json"]) == 1

    assert [one["name"] for one in json.loads(capsys.readouterr().out)["adapters"]] == [good, bad]


def test_shards_judge_each_adapter_of_a_set_once(
    good: str, bad: str, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = "".join(f"  - {{name: {name}, source: ./good}}\n" for name in ("a", "b", "c", "d", "e"))
    (tmp_path / "set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters:\n{entries}")
    judged: list[list[str]] = []
    for shard in ("0/3", "1/3", "2/3"):
        words = ["validate", "-f", str(tmp_path / "set.yaml"), "--shard", shard, "--format", "json"]
        assert main(words) == 0
        judged.append([one["name"] for one in json.loads(capsys.readouterr().out)["adapters"]])

    assert sorted(name for part in judged for name in part) == ["a", "b", "c", "d", "e"]
    assert max(map(len, judged)) < 5


def test_the_json_document_says_all_that_the_text_says(
    good: str, bad: str, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", good, bad, str(tmp_path / "gone"), "--base", base, "--format", "json"]) == 3

    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "lora_cli/validate/1"
    assert document["base"]["model_type"] == "llama"
    assert [one["exit_code"] for one in document["adapters"]] == [0, 1, 3]
    assert [one["applied"] for one in document["adapters"][:2]] == [{"matched": 14, "total": 14}] * 2
    assert document["adapters"][1]["findings"][0] == {
        "code": "LC302",
        "name": "pair-incomplete",
        "severity": "error",
        "message": document["adapters"][1]["findings"][0]["message"],
        "file": "adapter_model.safetensors",
        "field": "model.layers.0.self_attn.q_proj",
        "hint": "a part of the adapter is missing: save or convert it again",
        "accepted": None,
        "fingerprint": document["adapters"][1]["findings"][0]["fingerprint"],
        "effects": {},
    }
    assert document["adapters"][2]["error"]["exit_code"] == 3
    assert document["summary"] == {
        "adapters": 3, "unchecked": 0, "refused": 1, "failed": 1, "errors": 1, "warnings": 0, "notes": 0, "known": 0,
        "skipped": 0, "engines": {}, "exit_code": 3,
    }  # fmt: skip


def test_the_result_goes_to_a_file_when_asked(
    good: str, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for form, start in (("json", "{"), ("human", good)):
        assert main(["validate", good, "--base", base, "--format", f"{form}={tmp_path / 'out'}"]) == 0
        assert (tmp_path / "out").read_text().startswith(start)
    assert capsys.readouterr().out == ""


def process(*argv: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "lora_cli", *argv], capture_output=True, env={**os.environ, **environment}, check=False
    )


def test_a_pipe_gets_no_colour_and_an_ascii_one_no_failure(bad: str, base: str) -> None:
    done = process("validate", bad, "--base", base, PYTHONIOENCODING="ascii", TERM="xterm")

    assert done.returncode == 1
    assert b"\x1b" not in done.stdout


def on_a_terminal(*argv: str, **environment: str) -> bytes:
    """What a command writes when its output is a terminal."""
    import pty

    parent, child = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "lora_cli", *argv],
        stdout=child, stderr=subprocess.DEVNULL, env={**os.environ, "TERM": "xterm", **environment},
    ):  # fmt: skip
        os.close(child)
        written = b""
        while True:
            try:
                chunk = os.read(parent, 65536)
            except OSError:
                break
            if not chunk:
                break
            written += chunk
    os.close(parent)
    return written


@pytest.mark.slow
def test_a_terminal_gets_colour_unless_told_not_to(bad: str, base: str) -> None:
    for width in ("40", "200"):  # the outcome on a line of its own, and beside the name
        assert b"\x1b[31mrefused" in on_a_terminal("validate", bad, "--base", base, COLUMNS=width)
    assert b"\x1b" not in on_a_terminal("validate", bad, "--base", base, NO_COLOR="1")
    assert b"\x1b" not in on_a_terminal("validate", bad, "--base", base, TERM="dumb")


@pytest.mark.parametrize(("environment", "coloured"), [({}, False), ({"FORCE_COLOR": "1"}, True)])
def test_a_pipe_gets_colour_only_where_it_is_forced(
    bad: str, base: str, environment: dict[str, str], coloured: bool
) -> None:
    line = [sys.executable, "-m", "lora_cli", "validate", bad, "--base", base]
    done = subprocess.run(line, env=os.environ | environment, capture_output=True, check=False)
    assert (b"\x1b[31mrefused" in done.stdout) is coloured


def test_validate_of_a_small_adapter_imports_nothing_heavy(good: str, base: str) -> None:
    code = (
        "import sys\nfrom lora_cli.cli.main import main\n"
        f"assert main(['validate', {good!r}, '--base', {base!r}]) == 0\n"
        "sys.stderr.write(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    heavy = {"yaml", "http.client", "huggingface_hub", "torch", "transformers", "regex"}
    assert not {name.split(".")[0] for name in done.stderr.split()} & heavy


def test_without_an_adapter_there_is_only_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").touch()
    assert main(["validate", "--changed-files", "--base", "none", str(tmp_path / "notes.txt")]) == 0
    assert capsys.readouterr().out == "no adapters; no errors; no warnings; no skipped checks\n"
