"""``fetch --check``: what moved since it was locked is said, and nothing is fetched or written."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.locked_sets import CONFIG, WEIGHTS, Capture, fetch, forget_the_cache, hub_of_two, locked, set_of
from tests.hub_server import Hub
from tests.making import write_adapter


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    yield from hub_of_two(tmp_path, monkeypatch)


def plain(capsys: Capture) -> list[str]:
    """The lines of standard output without colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()


def check(capsys: Capture, code: int) -> dict[str, Any]:
    capsys.readouterr()
    assert fetch("--check", "--format", "json") == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["schema"] == "lora_cli/fetch-check/1"
    assert document["exit_code"] == code
    return {adapter["name"]: adapter for adapter in document["adapters"]} | {"left_over": document["left_over"]}


def test_check_says_nothing_while_nothing_moved(hub: Hub, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch() == 0
    found = check(capsys, 0)
    assert [found[name]["drift"] for name in ("sql", "chat")] == [[], []]
    assert fetch("--check") == 0
    assert capsys.readouterr().out == "sql: as locked\nchat: as locked\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert fetch("--check") == 0
    out = plain(capsys)
    assert [line.split() for line in out[:3]] == [
        ["adapter", "status", "from", "to"],
        *([name, "as", "locked", *[hub.commit(f"org/{name}").id[:12]] * 2] for name in ("sql", "chat")),
    ]
    assert out[-1] == "2 adapters as locked"
    assert fetch("--check", "--quiet") == 0
    assert capsys.readouterr().out == ""


def test_check_tells_what_the_origins_have_now_and_changes_nothing(
    hub: Hub, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "mine", seed=1)
    set_of("sql=org/sql", "chat=org/chat@main", "mine=./mine", "old=org/chat")
    assert fetch() == 0
    before, digest = Path("set.lock.yaml").read_bytes(), locked("mine").digest
    was = hub.commit("org/sql").id
    hub.add("org/sql", {CONFIG: {"r": 9}, WEIGHTS: bytes([9]) * 1000, "tokenizer.json": "{}"})
    write_adapter(tmp_path / "mine", seed=2)
    set_of("sql=org/sql", "chat=org/chat", "mine=./mine", "new=org/sql")
    forget_the_cache(monkeypatch, tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    found = check(capsys, 1)
    assert found["sql"]["drift"] == [
        f"main moved from {was[:12]} to {hub.commit('org/sql').id[:12]}",
        "README.md is missing",
        f"{CONFIG} has different bytes",
        f"{WEIGHTS} has different bytes",
        "tokenizer.json is new",
    ]
    assert (found["sql"]["locked"], found["sql"]["now"]) == (was, hub.commit("org/sql").id)
    assert found["mine"]["drift"] == [f"{WEIGHTS} has different bytes"]
    assert found["chat"]["drift"] == ["is locked for org/chat@main, but the manifest has org/chat"]
    assert found["new"]["drift"] == ["is not locked"]
    assert found["left_over"] == ["old"]
    assert fetch("--check") == 1
    lines = [f"{name}: {'; '.join(found[name]['drift'])}" for name in ("sql", "chat", "mine", "new")]
    lines.append("old: is locked but not in the manifest")
    assert capsys.readouterr().out.splitlines() == lines
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert fetch("--check") == 1
    rows = plain(capsys)
    assert [line.split() for line in rows[1:6]] == [
        ["sql", "changed", was[:12], hub.commit("org/sql").id[:12]],
        ["chat", "changed", "-", "-"],
        ["mine", "changed", digest[:12], "-"],
        ["new", "not", "locked", "-", "-"],
        ["old", "removed", "-", "-"],
    ]
    assert rows[7:-2] == lines
    assert rows[-1] == "5 of 5 changed; lock the new versions with --upgrade"
    assert Path("set.lock.yaml").read_bytes() == before
    assert not (tmp_path / "empty").exists()


def test_check_ends_with_what_kept_an_origin_from_being_asked(
    hub: Hub, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert fetch() == 0
    del hub.repos["org/sql"]
    found = check(capsys, 3)
    assert found["sql"]["error"]["message"]
    assert found["chat"]["drift"] == []
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert fetch("--check", "--offline") == 3
    out, err = capsys.readouterr()
    assert "error: sql: hf://org/sql cannot be checked" in err
    assert out.splitlines()[1].split() == ["sql", "failed", locked("sql").revision[:12]]
    assert out.splitlines()[-1].endswith("; 2 not checked")


def test_a_pinned_commit_is_checked_without_a_request(hub: Hub, capsys: Capture) -> None:
    set_of(f"sql=org/sql@{hub.commit('org/sql').id}")
    assert fetch() == 0
    before = hub.count()
    check(capsys, 0)
    assert hub.count() == before
