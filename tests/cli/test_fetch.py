"""``lora-cli fetch``: directories on standard output, talk on standard error, one code at the end."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.locked_sets import CONFIG, WEIGHTS, files
from tests.cli.running import Run
from tests.cli.test_progress import on_a_terminal, screen
from tests.hf_variables import set_variables
from tests.hub_server import Hub
from tests.making import write_adapter
from tests.schemas import check_schema
from tests.store.keeping import tree

HEAD = "apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: "


@pytest.fixture(autouse=True)
def here(tmp_path: Path) -> None:
    for seed, name in enumerate(("sql", "chat")):
        write_adapter(tmp_path / name, seed=seed)


def test_standard_output_is_one_absolute_snapshot_directory_an_adapter(tmp_path: Path, run: Run) -> None:
    out, err = run(f"fetch {tmp_path}/sql ./chat")
    found = [Path(line) for line in out.splitlines()]
    assert {path.parent for path in found} == {tmp_path / "cache" / "snapshots" / "sha256"}
    assert [(path / WEIGHTS).read_bytes() for path in found] == [
        Path(name, WEIGHTS).read_bytes() for name in ("sql", "chat")
    ]
    assert [line.split(":")[0] for line in err.splitlines()] == [f"{tmp_path}/sql", "./chat", "2 adapters"]
    assert run(f"fetch chat chat chat/{CONFIG}").err == "1 adapter: 1 cached; 2.7 KiB\n"
    out, err = run("fetch --quiet ./sql ./none", 3)
    assert len(out.splitlines()) == 1
    assert "there is no folder" in err
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"]


@pytest.mark.parametrize(
    "words",
    [
        *("word", "./sql --timeout 30s", "./sql --to=", "./sql --revision v1", "./sql sub/../sql --to out"),
        *("./sql --prune", "./sql --prune --publish out", "./sql --publish=", "./sql --publish out --to out"),
        *("./sql sub/../sql --publish out", "./sql --locked", "./sql --check", "./sql --upgrade", "-f set.yaml ./sql"),
        *("-f set.yaml --locked --upgrade", "-f set.yaml --check --locked", "-f set.yaml --upgrade sq"),
        *("-f set.yaml --check --to out", "-f set.yaml --check --publish out"),
        *(f"-f set.yaml --shard {shard}" for shard in ("2/2", "0/0", "one", "-1/2", "1/2/3")),
    ],
)
def test_a_wrong_command_line_is_exit_2(words: str, run: Run) -> None:
    Path("set.yaml").write_text(f"{HEAD}[{{name: sql, source: ./sql}}]\n")
    assert (run(f"fetch {words}", 2).out, Path("cache").exists(), Path("out").exists()) == ("", False, False)


def test_to_writes_one_adapter_to_the_folder_itself_and_several_by_name(run: Run) -> None:
    assert (run("fetch ./sql --to out").out, tree(Path("out"))) == (f"{Path.cwd()}/out\n", {CONFIG, WEIGHTS})
    killed = "import os, pathlib\nfrom lora_cli.store.materialize import hidden_folder\n"
    killed += "with hidden_folder(pathlib.Path('out')) as folder: os._exit((folder / 'half').write_bytes(b'x'))\n"
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == 1
    assert len(list(Path().glob(".out.*"))) == 2
    run("fetch ./sql --to out")
    assert not list(Path().glob(".out.*")), "what a killed process left"
    run("fetch ./sql ./chat --to both")
    assert tree(Path("both")) == {f"{name}/{file}" for name in ("sql", "chat") for file in (CONFIG, WEIGHTS)}
    out, err = run("fetch ./sql --to chat", 2)
    assert (out, "chat exists, with other content" in err) == ("", True)


@pytest.mark.parametrize("line", ["validate o/n --base none", "inspect o/n", "warm o/n"])
def test_offline_is_an_option_of_every_command(line: str, run: Run) -> None:
    for words in (f"{line} --offline", f"--offline {line}"):
        assert "is not cached" in run(words, 3).text


def test_a_word_that_is_no_reference_does_not_stop_the_others(run: Run) -> None:
    said = run("fetch nonexist ./sql --format json --to out", 2)
    bad, good = said.document["adapters"]
    assert (bad["ref"], bad["exit_code"], good["exit_code"]) == (None, 2, 0)
    assert "'nonexist' is neither" in said.err
    assert "error: s3://UP//x: this is not a reference" in run("fetch s3://UP//x ./sql", 2).err
    assert tree(Path("out")) == {f"sql/{CONFIG}", f"sql/{WEIGHTS}"}


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [("MAX_BYTES", "10", 1), ("CACHE_BUDGET", "10", 1), ("KEEP_FREE", "1000000TB", 6)],
)
def test_a_limit_that_is_reached_names_its_variable(
    name: str, value: str, code: int, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    if name == "MAX_BYTES":  # which holds for what is cached, too
        run("fetch ./sql")
    monkeypatch.setenv(f"LORA_CLI_{name}", value)
    out, err = run("fetch ./sql", code)
    assert (out, f"{name.lower()} (LORA_CLI_{name})" in err) == ("", True)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as running:
        running.add("org/sql", files(1))
        running.add("org/chat", files(2))
        set_variables(monkeypatch, HF_ENDPOINT=running.endpoint, HF_HOME=str(tmp_path / "hf"))
        yield running


def planned(run: Run, words: str, code: int = 0) -> dict[str, dict[str, Any]]:
    document = run(f"fetch {words} --dry-run --format json", code).document
    check_schema(document)
    return {one["name"]: one for one in document["adapters"]}


def test_a_dry_run_tells_files_and_bytes_and_asks_for_listings_alone(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    one = planned(run, "org/sql")["sql"]
    assert one["revision"] == hub.commit("org/sql").id
    assert (hub.count("/resolve/"), Path("cache").exists()) == (0, False)
    (fetched,) = run("fetch org/sql --format json").document["adapters"]
    assert one["files"] == one["missing_files"] == len(fetched["files"])
    assert one["bytes"] == one["missing_bytes"] == fetched["bytes"]
    before = tree(Path("cache"))
    found = planned(run, "org/sql org/chat org/none", 3)
    assert (found["sql"]["missing_files"], found["sql"]["missing_bytes"]) == (0, 0)
    assert found["chat"]["missing_bytes"] == found["chat"]["bytes"] > 0
    assert "there is no repository org/none" in found["none"]["error"]["message"]
    assert not any(found["none"][key] for key in ("files", "bytes", "missing_files", "missing_bytes"))
    assert tree(Path("cache")) == before
    monkeypatch.setenv("LORA_CLI_MAX_BYTES", "10")
    assert "are allowed" in planned(run, "org/sql", 1)["sql"]["error"]["message"]


def test_a_set_is_planned_at_its_lock_and_the_lock_is_left_alone(hub: Hub, run: Run) -> None:
    Path("set.yaml").write_text(HEAD + "[{name: sql, source: org/sql}, {name: mine, source: ./sql}]\n")
    assert all(one["missing_files"] for one in planned(run, "-f set.yaml").values())
    assert not Path("set.lock.yaml").exists()
    run("fetch -f set.yaml")
    lock, commit = Path("set.lock.yaml").read_bytes(), hub.commit("org/sql").id
    hub.add("org/sql", files(4))
    assert planned(run, "-f set.yaml sql")["sql"]["revision"] == commit
    upgraded = planned(run, "-f set.yaml sql --upgrade")["sql"]
    assert upgraded["revision"] == hub.commit("org/sql").id != commit
    assert run("fetch -f set.yaml --dry-run").out.endswith("2 adapters: no files, 0 B would be downloaded\n")
    for index in (0, 1):  # one of them has no adapter
        run(f"fetch -f set.yaml mine --shard {index}/2 --dry-run")
    assert Path("set.lock.yaml").read_bytes() == lock


def fetched(words: str, code: int = 0, *, piped: bool = False) -> str:
    """What a whole process writes to the terminal; with ``piped`` its standard output is the file ``out``."""
    command = ["sh", "-c", 'exec "$0" "$@" > out' if piped else 'exec "$0" "$@"', sys.executable, "-m", "lora_cli"]
    found, shown = on_a_terminal([], columns=100, rows=40, command=[*command, "fetch", *words.split()])
    assert found == code
    return shown


def test_with_bars_on_a_terminal_standard_output_still_has_only_the_directory() -> None:
    shown = fetched("./sql", piped=True)
    (line,) = Path("out").read_text().splitlines()
    assert ("\x1b" in shown, line in shown) == (True, False)


def test_m5_on_a_terminal_is_said_what_is_new_then_what_failed_and_no_path(tmp_path: Path) -> None:
    fetched("./sql")
    shown = fetched("./sql ./chat ./none", 3)
    told = [line for line in screen(shown) if line]
    assert [line.partition(":")[0] for line in told[-4:]] == ["./chat", "error", "hint", "3 adapters"]
    assert re.fullmatch(r"3 adapters: 1 downloaded, 1 cached, 1 failed; \d+\.\d KiB", told[-1])
    assert str(tmp_path / "cache") not in shown
