"""A lock among others: processes and shards that write it, and the commands and policies that read it."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.documents.lockfile import read_lock
from tests.cli.locked_sets import CONFIG, WEIGHTS, Capture, fetch, files, hub_of_two, locked, set_of
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base_config


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    yield from hub_of_two(tmp_path, monkeypatch)


@pytest.mark.slow
def test_two_processes_that_upgrade_one_adapter_each_lose_neither(hub: Hub) -> None:
    assert fetch() == 0
    hub.add("org/sql", files(3))
    hub.add("org/chat", files(4))
    waits = hub.fault(r"/api/models/org/sql", delay_s=3)
    command = [sys.executable, "-m", "lora_cli", "fetch", "-f", "set.yaml", "--upgrade", "sql"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as slow:
        began = threading.Event()
        while waits.times and slow.poll() is None:
            began.wait(0.02)
        assert fetch("--upgrade", "chat") == 0
        assert slow.poll() is None, slow.stderr and slow.stderr.read()
        slow.communicate()
    assert slow.returncode == 0
    for name in ("sql", "chat"):
        assert locked(name).revision == hub.commit(f"org/{name}").id


def test_every_adapter_is_in_one_shard_and_a_shard_keeps_what_others_locked(capsys: Capture, hub: Hub) -> None:
    names = [f"a{number}" for number in range(12)]
    for number, name in enumerate(names):
        hub.add(f"org/{name}", files(number))
    set_of(*(f"{name}=org/{name}" for name in names))
    done: list[str] = []
    for index in range(3):
        assert fetch("--shard", f"{index}/3", "--to", "out", "--format", "json") == 0
        done += [adapter["name"] for adapter in json.loads(capsys.readouterr().out)["adapters"]]
        assert set(read_lock(Path("set.lock.yaml"))) == set(done)
    assert sorted(done) == sorted(names)
    assert {path.name for path in Path("out").iterdir()} == set(names)
    before = hub.count()
    assert fetch("--locked", "--shard", "1/3") == 0
    assert hub.count() == before


def test_validate_judges_what_is_locked_and_not_what_the_branch_is_now(
    hub: Hub, tmp_path: Path, capsys: Capture
) -> None:
    good = write_adapter(tmp_path / "good", modules=llama_modules())
    hub.add("org/sql", good)
    set_of("sql=org/sql")
    assert fetch() == 0
    hub.add("org/sql", {CONFIG: "{}", WEIGHTS: b"rubbish"})
    base = str(write_base_config(tmp_path / "base"))
    capsys.readouterr()
    assert main(["validate", "-f", "set.yaml", "--base", base, "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["adapters"]
    assert found["revision"] == locked("sql").revision
    Path("set.lock.yaml").unlink()
    assert main(["validate", "-f", "set.yaml", "--base", base]) == 1


@pytest.mark.parametrize("rule", ["require_pinned", "require_sha256"])
def test_a_lock_is_a_pin_and_a_digest_for_a_policy(rule: str, hub: Hub, capsys: Capture) -> None:
    assert fetch() == 0
    text = Path("set.yaml").read_text()
    Path("set.yaml").write_text(f"{text}policy: {{{rule}: true}}\n")
    assert fetch("--locked") == 0
    assert fetch() == 0
    Path("set.lock.yaml").unlink()
    assert fetch() == 1
    assert rule in capsys.readouterr().err


@pytest.mark.slow
def test_what_a_lock_lacks_or_contradicts_is_warned_of_and_nothing_else(
    hub: Hub, tmp_path: Path, capsys: Capture
) -> None:
    write_adapter(tmp_path / "mine", modules=llama_modules())
    hub.add("org/sql", tmp_path / "mine")
    hub.add("org/chat", tmp_path / "mine")
    base = str(write_base_config(tmp_path / "base"))
    set_of("sql=org/sql", "mine=./mine")

    def warned(*words: str) -> str:
        capsys.readouterr()
        main([words[0], "-f", "set.yaml", "--base", base, *words[1:]])
        lines = capsys.readouterr().err.splitlines()
        return "\n".join(line for line in lines if "locked" in line)

    one = "warning: 1 adapter of set.yaml is not locked: sql; lora-cli fetch -f set.yaml locks them"
    once = ("warm", "--device", "cpu")
    assert warned(*once) == one
    assert warned("validate") == warned("inspect") == ""  # nobody wants a lock here
    assert fetch() == 0
    assert warned(*once) == warned("validate") == warned("inspect") == ""
    set_of("sql=org/sql@main", "chat=org/chat", "mine=./mine")
    two = "warning: 2 adapters of set.yaml are not locked: sql, chat; lora-cli fetch -f set.yaml locks them"
    assert warned(*once) == warned("validate") == warned("inspect") == two
    assert warned("validate", "--quiet") == ""


def set_with_digests(source: str, *digests: str) -> None:
    entries = "".join(
        f"  - {{name: a{number}, source: {source}, sha256: {digest}}}\n" for number, digest in enumerate(digests)
    )
    Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters:\n{entries}")


def test_validate_holds_a_folder_to_the_digest_of_its_manifest_without_policy_or_lock(
    tmp_path: Path, capsys: Capture
) -> None:
    write_adapter(tmp_path / "mine", modules=llama_modules())
    assert main(["fetch", "./mine", "--format", "json"]) == 0
    (fetched,) = json.loads(capsys.readouterr().out)["adapters"]
    set_with_digests("./mine", fetched["sha256"], "0" * 64)
    base = str(write_base_config(tmp_path / "base"))
    assert main(["validate", "-f", "set.yaml", "--base", base, "--format", "json"]) == 5
    right, wrong = json.loads(capsys.readouterr().out)["adapters"]
    assert right["error"] is None
    assert f"the manifest has sha256 {'0' * 64}, but its files have {fetched['sha256']}" in wrong["error"]["message"]
