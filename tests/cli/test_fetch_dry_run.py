"""``fetch --dry-run``: what would be downloaded; nothing is written, and no file is asked for."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from tests.cli.locked_sets import files
from tests.hf_variables import set_variables
from tests.hub_server import Hub
from tests.making import write_adapter
from tests.schemas import check_schema
from tests.store.keeping import tree

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Any":
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    with Hub() as running:
        running.add("org/sql", files(1))
        running.add("org/chat", files(2))
        set_variables(monkeypatch, HF_ENDPOINT=running.endpoint, HF_HOME=str(tmp_path / "hf"))
        yield running


def planned(capsys: Capture, *argv: str, code: int = 0) -> dict[str, dict[str, Any]]:
    assert main(["fetch", *argv, "--dry-run", "--format", "json"]) == code
    document = json.loads(capsys.readouterr().out)
    check_schema(document)
    return {one["name"]: one for one in document["adapters"]}


def test_it_tells_files_and_bytes_and_asks_for_listings_alone(hub: Hub, tmp_path: Path, capsys: Capture) -> None:
    one = planned(capsys, "org/sql")["sql"]
    assert one["revision"] == hub.commit("org/sql").id
    assert hub.count("/resolve/") == 0
    assert not (tmp_path / "cache").exists()
    assert main(["fetch", "org/sql", "--format", "json"]) == 0
    (fetched,) = json.loads(capsys.readouterr().out)["adapters"]
    assert one["files"] == one["missing_files"] == len(fetched["files"])
    assert one["bytes"] == one["missing_bytes"] == fetched["bytes"]


def test_an_empty_file_has_no_bytes(hub: Hub, capsys: Capture) -> None:
    before = planned(capsys, "org/sql", "--include", "*")["sql"]
    hub.add("org/sql", files(1) | {"notes/empty.txt": b""})
    after = planned(capsys, "org/sql", "--include", "*")["sql"]
    assert (after["files"], after["bytes"]) == (before["files"] + 1, before["bytes"])


def test_what_is_here_is_not_downloaded_and_one_that_fails_stops_no_other(hub: Hub, capsys: Capture) -> None:
    assert main(["fetch", "org/sql"]) == 0
    capsys.readouterr()
    before = tree(Path("cache"))
    found = planned(capsys, "org/sql", "org/chat", "org/none", code=3)
    assert (found["sql"]["missing_files"], found["sql"]["missing_bytes"]) == (0, 0)
    assert found["chat"]["missing_bytes"] == found["chat"]["bytes"] > 0
    assert "there is no repository org/none" in found["none"]["error"]["message"]
    assert tree(Path("cache")) == before
    hub.add("org/sql", files(1) | {"README.md": b"more"})
    assert 0 < planned(capsys, "org/sql")["sql"]["missing_bytes"] < found["sql"]["bytes"]
    assert planned(capsys, "org/sql", "--offline")["sql"]["missing_files"] == 0


def test_a_set_is_planned_at_its_lock_and_the_lock_is_left_alone(hub: Hub, capsys: Capture) -> None:
    write_adapter(Path("mine"), seed=3)
    entries = "{name: sql, source: org/sql}, {name: mine, source: ./mine}"
    Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: [{entries}]\n")
    assert all(one["missing_files"] for one in planned(capsys, "-f", "set.yaml").values())
    assert not Path("set.lock.yaml").exists()
    assert main(["fetch", "-f", "set.yaml"]) == 0
    lock, commit = Path("set.lock.yaml").read_bytes(), hub.commit("org/sql").id
    capsys.readouterr()
    hub.add("org/sql", files(4))
    assert planned(capsys, "-f", "set.yaml", "sql")["sql"]["revision"] == commit
    upgraded = planned(capsys, "-f", "set.yaml", "sql", "--upgrade")["sql"]
    assert upgraded["revision"] == hub.commit("org/sql").id != commit
    assert upgraded["missing_files"] > 0
    assert Path("set.lock.yaml").read_bytes() == lock
    assert main(["fetch", "-f", "set.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 adapters: no files, 0 B would be downloaded"


def test_limits_and_policies_hold(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("LORA_CLI_MAX_BYTES", "10")
    assert "are allowed" in planned(capsys, "org/sql", code=1)["sql"]["error"]["message"]
    Path("policy.yaml").write_text('apiVersion: lora-cli/v1\nkind: Policy\ndeny_sources: ["hf://org/*"]\n')
    assert planned(capsys, "org/sql", "--policy", "policy.yaml", code=1)["sql"]["revision"] is None
