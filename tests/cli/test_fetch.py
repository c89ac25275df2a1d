"""``lora-cli fetch``: directories on standard output, talk on standard error, one code at the end."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.cli.main import main
from lora_cli.cli.options import in_shard
from tests.cli.locked_sets import CONFIG, WEIGHTS, Capture, files
from tests.cli.test_progress import on_a_terminal, screen
from tests.hf_variables import set_variables
from tests.hub_server import Hub
from tests.making import write_adapter
from tests.schemas import check_schema
from tests.store.keeping import tree

HEAD = "apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: "
SET = HEAD + "[{name: a, source: ./sql}, {name: b, source: ./chat}]\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, a_folder_and_a_cache_of_its_own: None) -> None:
    for seed, name in enumerate(("sql", "chat")):
        write_adapter(tmp_path / name, seed=seed)


def test_standard_output_is_one_absolute_snapshot_directory_an_adapter(tmp_path: Path, capsys: Capture) -> None:
    assert main(["fetch", str(tmp_path / "sql"), "./chat"]) == 0
    out, err = capsys.readouterr()
    found = [Path(line) for line in out.splitlines()]
    assert {path.parent for path in found} == {tmp_path / "cache" / "snapshots" / "sha256"}
    assert [(path / WEIGHTS).read_bytes() for path in found] == [
        Path(name, WEIGHTS).read_bytes() for name in ("sql", "chat")
    ]
    assert [line.split(":")[0] for line in err.splitlines()] == [str(tmp_path / "sql"), "./chat", "2 adapters"]
    assert main(["fetch", "./chat"]) == 0
    assert capsys.readouterr().err == "1 adapter: 1 cached; 2.7 KiB\n"
    assert main(["fetch", "--quiet", "./sql", "./none"]) == 3
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert err.startswith("error: there is no folder")
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"]


@pytest.mark.parametrize(
    "line",
    ["", "word", "./sql -f set.yaml", "./sql --timeout 30s", "./sql --to=", "./sql --revision v1",
     "./sql sub/../sql --to out", "./sql --prune", "./sql --prune --publish out"],
)  # fmt: skip
def test_a_wrong_command_line_is_exit_2(line: str, capsys: Capture) -> None:
    Path("set.yaml").write_text(SET)
    assert main(["fetch", *line.split()]) == 2
    assert (capsys.readouterr().out, Path("cache").exists()) == ("", False)


def test_to_writes_one_adapter_to_the_folder_itself_and_several_by_name(capsys: Capture) -> None:
    assert main(["fetch", "./sql", "--to", "out"]) == 0
    assert (capsys.readouterr().out, tree(Path("out"))) == (f"{Path.cwd() / 'out'}\n", {CONFIG, WEIGHTS})
    killed = "import os, pathlib\nfrom lora_cli.store.materialize import hidden_folder\n"
    killed += "with hidden_folder(pathlib.Path('out')) as folder: os._exit((folder / 'half').write_bytes(b'x'))\n"
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == 1
    assert len(list(Path().glob(".out.*"))) == 2
    assert main(["fetch", "./sql", "--to", "out"]) == main(["fetch", "./sql", "./chat", "--to", "both"]) == 0
    assert not list(Path().glob(".out.*")), "what a killed process left"
    assert tree(Path("both")) == {f"{name}/{file}" for name in ("sql", "chat") for file in (CONFIG, WEIGHTS)}
    capsys.readouterr()
    assert main(["fetch", "./sql", "--to", "chat"]) == 2
    out, err = capsys.readouterr()
    assert (out, "chat exists, with other content" in err) == ("", True)


@pytest.mark.parametrize("words", [["validate", "o/n", "--base", "none"], ["inspect", "o/n"], ["warm", "o/n"]])
def test_offline_is_an_option_of_every_command(words: list[str], capsys: Capture) -> None:
    for line in ([*words, "--offline"], ["--offline", *words]):
        assert main(line) == 3
        assert "is not cached" in " ".join("".join(capsys.readouterr()).split())


def test_a_word_that_is_no_reference_does_not_stop_the_others(capsys: Capture) -> None:
    assert main(["fetch", "nonexist", "./sql", "--format", "json", "--to", "out"]) == 2
    out, err = capsys.readouterr()
    bad, good = json.loads(out)["adapters"]
    assert (bad["ref"], bad["exit_code"], good["exit_code"]) == (None, 2, 0)
    assert "'nonexist' is neither" in err
    assert tree(Path("out")) == {f"sql/{CONFIG}", f"sql/{WEIGHTS}"}


def test_a_limit_holds_for_what_is_in_the_cache_too(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert main(["fetch", "./sql", "./chat"]) == 0
    capsys.readouterr()
    Path("set.yaml").write_text(SET + "policy: {max_bytes: 10}\n")
    assert main(["fetch", "-f", "set.yaml"]) == 1
    monkeypatch.setenv("LORA_CLI_MAX_BYTES", "10")
    assert main(["fetch", "./sql"]) == 1
    out, err = capsys.readouterr()
    assert (out, "but 10 are allowed" in err) == ("", True)


@pytest.mark.parametrize(
    ("name", "value", "code"), [("MAX_FILES", "1", 1), ("CACHE_BUDGET", "10", 1), ("KEEP_FREE", "1000000TB", 6)]
)
def test_a_limit_that_is_reached_names_its_variable(
    name: str, value: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv(f"LORA_CLI_{name}", value)
    assert main(["fetch", "./sql"]) == code
    out, err = capsys.readouterr()
    assert (out, f"{name.lower()} (LORA_CLI_{name})" in err) == ("", True)


def test_the_bytes_that_an_adapter_does_not_need_are_told(capsys: Capture) -> None:
    Path("sql/checkpoint-10").mkdir()
    for name, count in (("optimizer.pt", 2000), ("model.safetensors", 1000), ("checkpoint-10/optimizer.pt", 96)):
        Path("sql", name).write_bytes(b"x" * count)
    assert main(["fetch", "./sql", "--format", "json", "--verbose"]) == 0
    out, err = capsys.readouterr()
    (found,) = json.loads(out)["adapters"]
    assert found["left_out"] == {"files": 3, "bytes": 3096}
    assert "3.0 KiB in 3 files left out" in err
    assert main(["fetch", "./sql", "--include", "*.pt", "--verbose"]) == 0
    assert "1000 B in 1 file left out" in capsys.readouterr().err


@given(st.text(max_size=40), st.integers(1, 50))
def test_every_name_is_in_exactly_one_shard(name: str, count: int) -> None:
    assert [name] == [found for index in range(count) for found in in_shard([name], f"{index}/{count}", str)]


def test_the_shards_are_the_same_on_every_machine_and_of_like_size() -> None:
    names = [f"adapter-{number}" for number in range(400)]
    assert min(len(in_shard(names, f"{index}/4", str)) for index in range(4)) > 70
    assert in_shard(names[:8], "1/4", str) == ("adapter-1", "adapter-4", "adapter-5", "adapter-7")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as running:
        running.add("org/sql", files(1))
        running.add("org/chat", files(2))
        set_variables(monkeypatch, HF_ENDPOINT=running.endpoint, HF_HOME=str(tmp_path / "hf"))
        yield running


def planned(capsys: Capture, *argv: str, code: int = 0) -> dict[str, dict[str, Any]]:
    capsys.readouterr()
    assert main(["fetch", *argv, "--dry-run", "--format", "json"]) == code
    document = json.loads(capsys.readouterr().out)
    check_schema(document)
    return {one["name"]: one for one in document["adapters"]}


def test_a_dry_run_tells_files_and_bytes_and_asks_for_listings_alone(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    one = planned(capsys, "org/sql")["sql"]
    assert one["revision"] == hub.commit("org/sql").id
    assert (hub.count("/resolve/"), (tmp_path / "cache").exists()) == (0, False)
    assert main(["fetch", "org/sql", "--format", "json"]) == 0
    (fetched,) = json.loads(capsys.readouterr().out)["adapters"]
    assert one["files"] == one["missing_files"] == len(fetched["files"])
    assert one["bytes"] == one["missing_bytes"] == fetched["bytes"]
    before = tree(Path("cache"))
    found = planned(capsys, "org/sql", "org/chat", "org/none", code=3)
    assert (found["sql"]["missing_files"], found["sql"]["missing_bytes"]) == (0, 0)
    assert found["chat"]["missing_bytes"] == found["chat"]["bytes"] > 0
    assert "there is no repository org/none" in found["none"]["error"]["message"]
    assert tree(Path("cache")) == before
    monkeypatch.setenv("LORA_CLI_MAX_BYTES", "10")
    assert "are allowed" in planned(capsys, "org/sql", code=1)["sql"]["error"]["message"]


def test_a_set_is_planned_at_its_lock_and_the_lock_is_left_alone(hub: Hub, capsys: Capture) -> None:
    Path("set.yaml").write_text(HEAD + "[{name: sql, source: org/sql}, {name: mine, source: ./sql}]\n")
    assert all(one["missing_files"] for one in planned(capsys, "-f", "set.yaml").values())
    assert not Path("set.lock.yaml").exists()
    assert main(["fetch", "-f", "set.yaml"]) == 0
    lock, commit = Path("set.lock.yaml").read_bytes(), hub.commit("org/sql").id
    hub.add("org/sql", files(4))
    assert planned(capsys, "-f", "set.yaml", "sql")["sql"]["revision"] == commit
    upgraded = planned(capsys, "-f", "set.yaml", "sql", "--upgrade")["sql"]
    assert upgraded["revision"] == hub.commit("org/sql").id != commit
    assert Path("set.lock.yaml").read_bytes() == lock
    assert main(["fetch", "-f", "set.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 adapters: no files, 0 B would be downloaded"


def fetched(*argv: str, code: int = 0, piped: bool = False) -> str:
    """What a whole process writes to the terminal; with ``piped`` its standard output is the file ``out``."""
    command = ["sh", "-c", 'exec "$0" "$@" > out' if piped else 'exec "$0" "$@"', sys.executable, "-m", "lora_cli"]
    found, shown = on_a_terminal([], columns=100, rows=40, command=[*command, "fetch", *argv])
    assert found == code
    return shown


def test_with_bars_on_a_terminal_standard_output_still_has_only_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = fetched("./sql", piped=True)
    (line,) = Path("out").read_text().splitlines()
    assert ("\x1b" in shown, line in shown) == (True, False)
    monkeypatch.setenv("LORA_CLI_NO_PROGRESS", "1")
    assert "\x1b" not in fetched("./sql", piped=True)


def test_on_a_terminal_is_said_what_is_new_then_what_failed_and_no_path(tmp_path: Path) -> None:
    fetched("./sql")
    shown = fetched("./sql", "./chat", "./none", code=3)
    lines = screen(shown)
    told = [line for line in lines if line]
    assert [line.partition(":")[0] for line in told[-4:]] == ["./chat", "error", "hint", "3 adapters"]
    assert re.fullmatch(r"3 adapters: 1 downloaded, 1 cached, 1 failed; \d+\.\d KiB", told[-1])
    assert str(tmp_path / "cache") not in shown
    assert any(line.startswith(f"error: there is no folder {tmp_path}/none") for line in lines)
