"""``lora-cli fetch``: directories on standard output, talk on standard error, one code at the end."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from tests.making import write_adapter
from tests.store.keeping import tree

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SET = """apiVersion: lora-cli/v1
kind: AdapterSet
adapters:
  - {name: a, source: ./sql}
  - {name: b, source: ./chat}
"""


pytestmark = pytest.mark.usefixtures("a_folder_and_a_cache_of_its_own")


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "sql", seed=1)


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "chat", seed=2)


def test_standard_output_is_one_absolute_snapshot_directory_an_adapter(
    sql: Path, chat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", str(sql), "./chat"]) == 0
    out, err = capsys.readouterr()
    first, second = map(Path, out.splitlines())
    assert first.parent == second.parent == tmp_path / "cache" / "snapshots" / "sha256"
    assert (first / WEIGHTS).read_bytes() == (sql / WEIGHTS).read_bytes()
    assert (second / WEIGHTS).read_bytes() == (chat / WEIGHTS).read_bytes()
    assert [line.split(":")[0] for line in err.splitlines()] == [str(tmp_path / "sql"), "./chat"]


def test_quiet_says_nothing_but_errors(sql: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "--quiet", "./sql", "./none"]) == 3
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert err.startswith("error: ./none: there is no folder")
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"]


def test_one_that_fails_does_not_stop_the_others_and_the_largest_code_is_the_end(
    sql: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["fetch", "./empty", "./none", "./sql"]) == 3
    assert main(["fetch", "./empty", "./sql"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["word"],
        ["./sql", "-f", "set.yaml"],
        ["./sql", "--revision", "v1"],
        ["./sql", "--subfolder", "../x"],
        ["./sql", "--timeout", "soon"],
        ["./sql", "--timeout", "0"],
        ["./sql", "--to", ""],
        ["./sql", "--max-bytes", "much"],
        ["./sql", "--jobs", "0"],
        ["-f", "set.yaml", "--revision", "v1"],
        ["./sql", "sub/../sql", "--to", "out"],
    ],
)
def test_a_wrong_command_line_is_exit_2(argv: list[str], sql: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("set.yaml").write_text(SET)
    assert main(["fetch", *argv]) == 2
    assert capsys.readouterr().out == ""
    assert not Path("cache").exists()


def test_json_has_everything_and_the_same_exit_code(sql: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "./sql", "./none", "--format", "json"]) == 3
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["schema"] == "lora_cli/fetch/1"
    assert document["exit_code"] == 3
    good, bad = document["adapters"]
    assert good["ref"] == f"file://{sql}"
    assert Path(good["directory"]).name == good["sha256"]
    assert good["bytes"] == sum(file["bytes"] for file in good["files"])
    assert {file["path"] for file in good["files"]} == {CONFIG, WEIGHTS}
    assert (good["cached"], good["error"]) == (False, None)
    assert (bad["exit_code"], bad["error"]["message"]) == (3, f"there is no folder {sql.parent / 'none'}")
    assert "directory" not in bad


def test_a_manifest_names_them_and_its_policy_holds(
    sql: Path, chat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "set.yaml").write_text(SET)
    assert main(["fetch", "-f", "set.yaml"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["a", "b", "set.lock.yaml"]
    (tmp_path / "set.yaml").write_text(SET + "policy: {max_bytes: 10}\n")
    assert main(["fetch", "-f", "set.yaml"]) == 1
    assert "policy max_bytes" in capsys.readouterr().err
    (tmp_path / "set.yaml").write_text(SET.replace("./sql", f"./sql, sha256: {'0' * 64}"))
    assert main(["fetch", "-f", "set.yaml"]) == 5
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_one_adapter_is_handed_out_to_the_folder_itself(sql: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "./sql", "--to", "out"]) == 0
    assert capsys.readouterr().out == f"{Path.cwd() / 'out'}\n"
    assert tree(Path("out")) == {CONFIG, WEIGHTS}
    assert main(["fetch", "./sql", "--to", "out"]) == 0


def test_several_are_handed_out_to_folders_by_name(sql: Path, chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "./sql", "./chat", "--to", "out"]) == 0
    assert capsys.readouterr().out == f"{Path.cwd() / 'out' / 'sql'}\n{Path.cwd() / 'out' / 'chat'}\n"
    assert tree(Path("out")) == {f"{name}/{file}" for name in ("sql", "chat") for file in (CONFIG, WEIGHTS)}


def test_a_folder_with_something_else_is_never_overwritten(
    sql: Path, chat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", "./sql", "--to", "chat"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "exists and is not empty" in err
    assert tree(Path("chat")) == {CONFIG, WEIGHTS}


def test_pickled_weights_are_fetched_only_when_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / CONFIG).write_text("{}")
    (folder / "adapter_model.bin").write_bytes(b"\x80\x02.")
    assert main(["fetch", "./old"]) == 1
    assert "--allow-pickle" in capsys.readouterr().err
    assert main(["fetch", "./old", "--allow-pickle"]) == 0
    assert tree(Path(capsys.readouterr().out.strip())) == {CONFIG, "adapter_model.bin"}


def test_options_come_from_the_environment_too(sql: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_CLI_MAX_BYTES", "10")
    assert main(["fetch", "./sql"]) == 1
    assert main(["fetch", "./sql", "--max-bytes", "1GiB"]) == 0


def test_offline_needs_no_network_for_folders(sql: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "./sql", "--offline"]) == 0
    assert main(["fetch", "org/name", "--offline"]) == 3
    assert "offline mode is on" in capsys.readouterr().err


@pytest.mark.parametrize("typed", ["hf://org/name", "org/name"])
def test_what_is_not_to_be_had_is_named_once(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", typed, "--offline"]) == 3
    assert capsys.readouterr().err.startswith(f"error: {typed}: is not cached and offline mode is on\n")


@pytest.mark.parametrize(
    "words",
    [["validate", "org/name", "--no-base"], ["inspect", "org/name"], ["warm", "org/name", "--once", "--base", "o/b"]],
    ids=lambda words: words[0],
)
def test_offline_is_an_option_of_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for line in ([*words, "--offline"], ["--offline", *words]):
        assert main(line) == 3
        out, err = capsys.readouterr()
        assert "is not cached" in " ".join((out + err).split())


FETCHED_MODULES = """
import sys
from lora_cli.cli.main import main
assert main(["fetch", "./sql"]) == 0
print(" ".join(sorted({name.split(".")[0] for name in sys.modules})), file=sys.stderr)
"""


def test_a_folder_is_fetched_without_anything_heavy(sql: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FETCHED_MODULES], capture_output=True, text=True, check=True)
    imported = set(done.stderr.splitlines()[-1].split())
    assert not imported & {
        "torch",
        "numpy",
        "httpx2",
        "http.client",
        "yaml",
        "rich",
        "huggingface_hub",
        "safetensors",
        "transformers",
    }


def test_a_word_that_is_no_reference_does_not_stop_the_others(sql: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "nonexist", "./sql"]) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert "'nonexist' is neither" in err
    assert main(["fetch", "nonexist", "./sql", "--format", "json"]) == 2
    bad, good = json.loads(capsys.readouterr().out)["adapters"]
    assert (bad["ref"], bad["exit_code"], good["exit_code"]) == (None, 2, 0)
    assert main(["fetch", "nonexist", "./sql", "--to", "out"]) == 2
    assert tree(Path("out")) == {f"sql/{CONFIG}", f"sql/{WEIGHTS}"}


@pytest.mark.parametrize("glob", ["adapter_*", "*.safetensors", CONFIG])
def test_a_selection_that_leaves_no_adapter_is_refused(
    glob: str, sql: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", "./sql", "--exclude", glob]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"--exclude {glob!r} leaves no" in err


def test_an_error_names_the_adapter_once_and_hints_on_a_line_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["fetch", "./empty"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ./empty: neither")
    assert second.startswith("hint: ")


def test_a_folder_that_cannot_be_written_is_the_fault_of_to(sql: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "./sql", "--to", "/proc/out"]) == 6
    err = capsys.readouterr().err
    assert "--to" in err
    assert "--cache-dir" not in err


def test_two_adapters_with_one_last_name_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    write_adapter(tmp_path / "acme" / "sql")
    assert main(["fetch", "./acme/sql", "./other/sql", "file:///nowhere/sql"]) == 3
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("hint")]
    assert lines[0].startswith("./acme/sql: 2 files")
    assert lines[1:] == [
        f"error: ./other/sql: there is no folder {tmp_path}/other/sql",
        "error: file:///nowhere/sql: there is no folder /nowhere/sql",
    ]
