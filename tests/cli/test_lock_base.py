"""The base of a manifest: its config is fetched with the adapters, and read from the lock afterwards."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.documents.manifest import read_lock
from lora_cli.refs.request import THE_BASE, LockedAdapter
from tests.cli.locked_sets import Capture, fetch, forget_the_cache, hub_of_two, set_of
from tests.hub_server import Hub
from tests.making import base_config, llama_modules, write_adapter

VALIDATE = ["validate", "-f", "set.yaml"]


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub with a base, of which main has one commit, and a set of one real adapter for it."""
    for hub in hub_of_two(tmp_path, monkeypatch):
        adapter = write_adapter(
            tmp_path / "real", modules=llama_modules(("q_proj",)), config={"base_model_name_or_path": "org/base"}
        )
        hub.add("org/real", {path.name: path.read_bytes() for path in adapter.iterdir()})
        hub.add("org/base", {"config.json": base_config(), "model.safetensors": bytes(5000)})
        set_of("real=org/real", base="org/base")
        yield hub


def base() -> LockedAdapter | None:
    return read_lock(Path("set.lock.yaml")).get(THE_BASE)


def test_its_config_is_in_the_lock_so_that_no_cache_and_no_network_is_needed_for_it(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    policy = "apiVersion: lora-cli/v1\nkind: Policy\nallow_sources: [hf://org/real]\nmax_bytes: 1MB\n"
    Path("policy.yaml").write_text(policy)
    assert fetch("--format", "json", "--policy", "policy.yaml") == 0, "it is of adapters"
    report = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in report["adapters"]] == ["real"]
    assert report["lock"]["added"] == ["real", "the base"]
    found = base()
    assert found is not None
    assert (found.source, found.endpoint, found.revision) == ("org/base", hub.endpoint, hub.commit("org/base").id)
    assert json.loads(found.config) == base_config()
    del hub.repos["org/base"]
    hub.requests.clear()
    assert fetch() == fetch("--locked") == fetch("--upgrade", "real") == 0
    forget_the_cache(monkeypatch, tmp_path)
    assert fetch("--locked") == main(VALIDATE) == main(["inspect", "-f", "set.yaml"]) == 0
    assert not hub.count("org/base")
    assert main([*VALIDATE, "--base", "org/base"]) == 3


def test_it_stays_at_the_locked_commit_until_an_upgrade(hub: Hub, capsys: Capture) -> None:
    assert fetch() == 0
    first = base()
    assert first is not None
    hub.add("org/base", {"config.json": base_config(hidden_size=128)})
    moved = hub.commit("org/base").id
    assert main(VALIDATE) == fetch() == fetch("--upgrade", "real") == 0
    assert base() == first
    capsys.readouterr()
    assert fetch("--check") == 1
    assert "the base: main moved from" in capsys.readouterr().out
    assert fetch("real", "--check") == fetch("--upgrade") == 0
    told = capsys.readouterr().err
    assert f"Updated the base {first.revision[:7]} -> {moved[:7]}" in told
    assert "set.lock.yaml: the base updated" in told
    assert main(VALIDATE) == 1, "the base has other widths now"
    assert fetch("--check") == 0


def test_one_that_cannot_be_had_is_a_warning_and_refused_with_locked(
    hub: Hub, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_of("real=org/real", base="org/nothing")
    assert fetch() == 0
    said = "warning: the base is not locked: hf://org/nothing: there is no repository org/nothing"
    assert (said in capsys.readouterr().err, base()) == (True, None)
    hub.requests.clear()
    assert fetch("--locked") == fetch("--check") == 1
    out, err = capsys.readouterr()
    assert (
        "the base is not locked\nhint: lora-cli fetch -f set.yaml locks what it can fetch; remove other adapters" in err
    )
    assert "the base: is not locked; lora-cli fetch -f set.yaml locks it" in out
    assert not hub.count("org/nothing"), "what is not locked is not asked for"
    for endpoint, code in ((hub.endpoint, 3), ("http://127.0.0.1:9", 4)):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        assert main(VALIDATE) == code
        assert "hint: this is the base model: set --base DIR, a folder with its config" in capsys.readouterr().err


def test_another_base_is_locked_anew_and_refused_with_locked(hub: Hub, capsys: Capture) -> None:
    assert fetch() == 0
    hub.add("org/other", {"config.json": base_config()})
    set_of("real=org/real", base="org/other")
    assert fetch("--locked") == fetch("--check") == 1
    out, err = capsys.readouterr()
    assert "the base is locked for org/base, but the manifest has org/other" in err
    assert "the base: is locked for org/base, but" in out
    assert fetch() == 0
    found = base()
    assert (found and found.source) == "org/other"
    set_of("real=org/real")
    assert fetch("--check") == 1
    assert "the base: is locked but not in the manifest" in capsys.readouterr().out
    assert fetch() == 0
    assert base() is None


@pytest.mark.parametrize("path", ["./model", "model/config.json"])
def test_a_path_is_locked_and_then_not_needed(path: str, hub: Hub, tmp_path: Path, capsys: Capture) -> None:
    config = tmp_path / "model" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps(base_config()))
    set_of("real=org/real", base=path)
    assert fetch() == 0
    found = base()
    assert found is not None
    assert (found.source, found.endpoint, found.revision) == (path, "", "")
    assert fetch("--locked") == fetch("--check") == 0
    config.write_text(json.dumps(base_config(hidden_size=128)))
    assert main(VALIDATE) == 1, "it is read in place"
    assert fetch("--locked") == fetch("--check") == 1
    assert "the base has other bytes than the locked ones" in capsys.readouterr().err
    shutil.rmtree(config.parent)
    hub.requests.clear()
    assert fetch("--locked") == fetch("--check") == main(VALIDATE) == 0
    assert not hub.count(re.escape(path))
