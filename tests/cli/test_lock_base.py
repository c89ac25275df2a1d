"""The base of a manifest: its config is fetched with the adapters, and read from the lock afterwards."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli.documents.manifest import read_lock
from lora_cli.refs.request import THE_BASE, LockedAdapter
from tests.cli.locked_sets import LOCK, forget_the_cache, hub_of_two, set_of
from tests.cli.running import Run
from tests.hub_server import Hub
from tests.making import base_config, llama_modules, write_adapter

FETCH, VALIDATE = "fetch -f set.yaml", "validate -f set.yaml"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub with a base, of which main has one commit, and a set of one real adapter for it."""
    for hub in hub_of_two(monkeypatch):
        config = {"base_model_name_or_path": "org/base"}
        hub.add("org/real", write_adapter(tmp_path / "real", modules=llama_modules(("q_proj",)), config=config))
        hub.add("org/base", {"config.json": base_config(), "model.safetensors": bytes(5000)})
        set_of("real=org/real", base="org/base")
        yield hub


def base() -> LockedAdapter:
    return read_lock(LOCK)[THE_BASE]


def test_its_config_is_in_the_lock_so_that_no_cache_and_no_network_is_needed_for_it(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    policy = "apiVersion: lora-cli/v1\nkind: Policy\nallow_sources: [hf://org/real]\nmax_bytes: 1MB\n"
    Path("policy.yaml").write_text(policy)  # which is of adapters
    report = run(f"{FETCH} --format json --policy policy.yaml").document
    assert [one["name"] for one in report["adapters"]] == ["real"]
    assert report["lock"]["added"] == ["real", "the base"]
    found = base()
    assert (found.source, found.endpoint, found.revision) == ("org/base", hub.endpoint, hub.commit("org/base").id)
    assert json.loads(found.config) == base_config()
    del hub.repos["org/base"]
    hub.requests.clear()
    run(f"{FETCH} --upgrade real")
    forget_the_cache(monkeypatch)
    for line in (f"{FETCH} --locked", VALIDATE, "inspect -f set.yaml"):
        run(line)
    assert not hub.count("org/base")


def test_it_stays_at_the_locked_commit_until_an_upgrade(hub: Hub, run: Run) -> None:
    run(FETCH)
    first = base()
    hub.add("org/base", {"config.json": base_config(hidden_size=128)})
    moved = hub.commit("org/base").id
    for line in (VALIDATE, FETCH, f"{FETCH} --upgrade real"):
        run(line)
        assert base() == first
    assert "the base: main moved from" in run(f"{FETCH} --check", 1).out
    run(f"{FETCH} real --check")
    told = run(f"{FETCH} --upgrade").err
    assert f"Updated the base {first.revision[:7]} -> {moved[:7]}" in told
    assert "set.lock.yaml: the base updated" in told
    run(VALIDATE, 1)  # the base has other widths now
    hub.add("org/base", {"config.json": base_config()})
    run(f"{FETCH} --upgrade --publish served")  # which is judged by the base as it will be


def test_one_that_cannot_be_had_is_a_warning_and_refused_with_locked(
    hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_of("real=org/real", base="./nothing")
    assert f"warning: the base is not locked: there is no {Path.cwd()}/nothing" in run(FETCH).err
    set_of("real=org/real", base="org/nothing")
    assert "warning: the base is not locked: hf://org/nothing: there is no repository org/nothing" in run(FETCH).err
    hub.requests.clear()
    assert "the base is not locked\nhint: lora-cli fetch -f set.yaml" in run(f"{FETCH} --locked", 1).err
    assert "the base: is not locked; lora-cli fetch -f set.yaml locks it" in run(f"{FETCH} --check", 1).out
    assert not hub.count("org/nothing"), "what is not locked is not asked for"
    for endpoint, code in ((hub.endpoint, 3), ("http://127.0.0.1:9", 4)):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        assert "hint: this is the base model: set --base DIR, a folder with its config" in run(VALIDATE, code).err


def test_another_base_is_locked_anew_and_refused_with_locked(hub: Hub, run: Run) -> None:
    run(FETCH)
    hub.add("org/other", {"config.json": base_config()})
    set_of("real=org/real", base="org/other")
    assert "the base is locked for org/base, but the manifest has org/other" in run(f"{FETCH} --locked", 1).err
    assert "the base: is locked for org/base, but" in run(f"{FETCH} --check", 1).out
    run(FETCH)
    assert base().source == "org/other"
    set_of("real=org/real")
    assert "the base: is locked but not in the manifest" in run(f"{FETCH} --check", 1).out
    run(FETCH)
    assert THE_BASE not in read_lock(LOCK)


def test_a_folder_without_a_config_is_not_to_be_locked(run: Run) -> None:
    Path("model").mkdir()
    set_of("real=org/real", base="./model")
    run(FETCH)
    run(f"{FETCH} --check")
    Path("model/config.json").write_text(json.dumps(base_config()))
    assert "the base: is not locked" in run(f"{FETCH} --check", 1).out


@pytest.mark.parametrize("path", ["./model", "model/config.json"])
def test_a_path_is_locked_and_then_not_needed(path: str, hub: Hub, run: Run) -> None:
    config = Path("model/config.json")
    config.parent.mkdir()
    config.write_text(json.dumps(base_config()))
    set_of("real=org/real", base=path)
    run(FETCH)
    assert (base().source, base().endpoint, base().revision) == (path, "", "")
    config.write_text(json.dumps(base_config(hidden_size=128)))
    run(VALIDATE, 1)  # it is read in place
    run(f"{FETCH} --check", 1)
    assert "the base has other bytes than the locked ones" in run(f"{FETCH} --locked", 1).err
    shutil.rmtree(config.parent)
    hub.requests.clear()
    for line in (f"{FETCH} --locked", f"{FETCH} --check", VALIDATE):
        run(line)
    assert not hub.count(re.escape(path))
