"""``fetch -f`` and its lock: what is pinned stays, what moved is told, and nothing is asked twice."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from lora_cli.documents.lockfile import dump_lock, read_lock
from lora_cli.refs.snapshot import Blob
from tests.cli.locked_sets import (
    CONFIG,
    WEIGHTS,
    Capture,
    fetch,
    files,
    forget_the_cache,
    hub_of_two,
    locked,
    rewrite,
    set_of,
)
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base_config

LOCK = Path("set.lock.yaml")


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    yield from hub_of_two(tmp_path, monkeypatch)


def test_a_lock_is_written_beside_the_manifest_and_what_it_has_costs_no_request(hub: Hub, capsys: Capture) -> None:
    assert fetch() == 0
    out, err = capsys.readouterr()
    assert locked("sql").revision == hub.commit("org/sql").id
    assert locked("chat").source == "org/chat@main"
    assert set(locked("sql").files) == {CONFIG, WEIGHTS, "README.md"}
    assert [Path(line).name for line in out.splitlines()] == [locked("sql").digest, locked("chat").digest]
    assert err.splitlines()[-2:] == ["set.lock.yaml: 2 added", "2 adapters: 2 downloaded; 2.0 KiB"]
    assert LOCK.stat().st_mode & 0o777 == 0o644
    before, asked = LOCK.stat(), hub.connections
    for argv in ([], ["--locked"], ["--offline"], ["--offline", "--locked"]):
        assert fetch(*argv) == 0
    assert (LOCK.stat().st_ino, LOCK.stat().st_mtime_ns, hub.connections) == (before.st_ino, before.st_mtime_ns, asked)
    assert "set.lock.yaml" not in capsys.readouterr().err


def test_names_choose_what_is_fetched_locked_and_looked_at(hub: Hub, capsys: Capture) -> None:
    assert fetch("chat") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert list(read_lock(LOCK)) == ["chat"]
    assert fetch() == 0
    sql, chat = locked("sql"), locked("chat")
    hub.add("org/sql", files(3))
    hub.add("org/chat", files(4))
    capsys.readouterr()
    assert fetch("--check", "chat") == 1
    found = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert found == ["chat", "1 adapter"]
    assert fetch("--upgrade", "chat") == 0
    assert (locked("sql"), locked("chat").revision) == (sql, hub.commit("org/chat").id)
    assert chat.revision != locked("chat").revision
    assert fetch("sqk") == 2
    assert "set.yaml has no adapter 'sqk'\nhint: did you mean sql?" in capsys.readouterr().err


def test_another_machine_gets_the_locked_commit_and_not_what_the_branch_is_now(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    hub.add("org/sql", {**files(1), "LICENSE": "free"})
    assert fetch("--include", "LICENSE") == 0
    first = LOCK.read_bytes()
    hub.add("org/sql", files(3))
    forget_the_cache(monkeypatch, tmp_path)
    capsys.readouterr()
    assert fetch("--locked") == fetch() == 0
    directory = Path(capsys.readouterr().out.splitlines()[0])
    assert {path.name for path in directory.iterdir()} == {CONFIG, WEIGHTS, "LICENSE", "README.md"}
    assert (directory / WEIGHTS).read_bytes() == bytes([1]) * 1000
    assert (directory.name, LOCK.read_bytes()) == (locked("sql").digest, first)


def test_only_entries_that_are_new_changed_or_gone_move_and_one_that_fails_keeps_its_own(
    hub: Hub, capsys: Capture
) -> None:
    hub.add("org/tone", files(5))
    set_of("sql=org/sql", "chat=org/chat@main", "old=org/tone")
    assert fetch() == 0
    first = locked("sql")
    for repo in ("org/sql", "org/chat"):
        hub.add(repo, files(6))
    set_of("sql=org/sql", "chat=org/chat", "new=org/tone")
    capsys.readouterr()
    assert fetch() == 0
    assert (locked("sql"), locked("chat").revision) == (first, hub.commit("org/chat").id)
    assert list(read_lock(LOCK)) == ["chat", "new", "sql"]
    told = ["Updated chat org/chat@main -> org/chat", "set.lock.yaml: 1 added, 1 updated, 1 removed"]
    assert capsys.readouterr().err.splitlines()[-3:-1] == told
    del hub.repos["org/sql"]
    hub.add("org/chat", files(7))
    set_of("sql=org/sql", "chat=org/chat", "none=org/none")
    assert fetch("--upgrade") == 3
    assert (locked("sql"), locked("chat").revision) == (first, hub.commit("org/chat").id)
    assert list(read_lock(LOCK)) == ["chat", "sql"]


def test_another_server_than_when_it_was_locked_is_told_in_one_line_and_the_digests_decide(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    assert fetch() == 0
    before, mirror = LOCK.read_bytes(), hub.endpoint.replace("127.0.0.1", "localhost")
    monkeypatch.setenv("HF_ENDPOINT", mirror)
    forget_the_cache(monkeypatch, tmp_path)
    capsys.readouterr()
    for argv in ([], ["--locked"], ["--upgrade"]):
        assert fetch(*argv) == 0
        (told,) = [line for line in capsys.readouterr().err.splitlines() if "endpoints" in line]
        moved = f"sql, chat: locked from {hub.endpoint}, now from {mirror}"
        assert told == f"other endpoints than in set.lock.yaml: {moved}"
        assert LOCK.read_bytes() == before


@pytest.mark.slow
def test_a_set_that_comes_through_a_pipe_has_no_lock() -> None:
    for argv, code in ((["--locked"], 2), ([], 0)):
        line = [sys.executable, "-m", "lora_cli", "fetch", "-f", "-", *argv]
        done = subprocess.run(line, input=Path("set.yaml").read_bytes(), capture_output=True, check=False)
        assert done.returncode == code
    assert not list(Path().glob("*lock*"))


@pytest.mark.slow
def test_two_processes_that_upgrade_one_adapter_each_lose_neither(hub: Hub) -> None:
    assert fetch() == 0
    hub.add("org/sql", files(3))
    hub.add("org/chat", files(4))
    waits = hub.fault(r"/api/models/org/sql", delay_s=3)
    command = [sys.executable, "-m", "lora_cli", "fetch", "-f", "set.yaml", "--upgrade", "sql"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as slow:
        while waits.times and slow.poll() is None:
            threading.Event().wait(0.02)
        assert fetch("--upgrade", "chat") == 0
        assert slow.poll() is None, slow.stderr and slow.stderr.read()
        slow.communicate()
    assert slow.returncode == 0
    assert all(locked(name).revision == hub.commit(f"org/{name}").id for name in ("sql", "chat"))


def test_every_adapter_is_in_one_shard_and_a_shard_keeps_what_others_locked(capsys: Capture, hub: Hub) -> None:
    names = [f"a{number}" for number in range(12)]
    for number, name in enumerate(names):
        hub.add(f"org/{name}", files(number))
    set_of(*(f"{name}=org/{name}" for name in names))
    done: list[str] = []
    for index in range(3):
        assert fetch("--shard", f"{index}/3", "--to", "out", "--format", "json") == 0
        done += [adapter["name"] for adapter in json.loads(capsys.readouterr().out)["adapters"]]
        assert set(read_lock(LOCK)) == set(done)
    assert sorted(done) == sorted(names)
    assert {path.name for path in Path("out").iterdir()} == set(names)


def test_validate_judges_what_is_locked_and_not_what_the_branch_is_now(
    hub: Hub, tmp_path: Path, capsys: Capture
) -> None:
    hub.add("org/sql", write_adapter(tmp_path / "good", modules=llama_modules()))
    set_of("sql=org/sql")
    assert fetch() == 0
    hub.add("org/sql", {CONFIG: "{}", WEIGHTS: b"rubbish"})
    base = str(write_base_config(tmp_path / "base"))
    capsys.readouterr()
    assert main(["validate", "-f", "set.yaml", "--base", base, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["adapters"][0]["revision"] == locked("sql").revision
    set_of("sql=org/sql@main")
    assert main(["validate", "-f", "set.yaml", "--base", base]) == 1
    warning = "warning: 1 adapter of set.yaml is not locked: sql; lora-cli fetch -f set.yaml locks them\n"
    assert capsys.readouterr().err == warning


@pytest.mark.parametrize("rule", ["require_pinned", "require_sha256"])
def test_a_lock_is_a_pin_and_a_digest_for_a_policy(rule: str, hub: Hub, capsys: Capture) -> None:
    assert fetch() == 0
    Path("set.yaml").write_text(f"{Path('set.yaml').read_text()}policy: {{{rule}: true}}\n")
    assert fetch("--locked") == fetch() == 0
    LOCK.unlink()
    assert fetch() == 1
    assert rule in capsys.readouterr().err


def checked(capsys: Capture, code: int) -> dict[str, Any]:
    capsys.readouterr()
    assert fetch("--check", "--format", "json") == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["exit_code"]) == ("lora_cli/fetch-check/1", code)
    return {adapter["name"]: adapter for adapter in document["adapters"]} | {"left_over": document["left_over"]}


def test_check_tells_what_the_origins_have_now_and_changes_nothing(
    hub: Hub, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "mine", seed=1)
    set_of("sql=org/sql", "chat=org/chat@main", "mine=./mine", "old=org/chat")
    assert fetch() == 0
    assert fetch("--check") == fetch("--check", "-q") == 0
    before, was = LOCK.read_bytes(), hub.commit("org/sql").id
    hub.add("org/sql", {CONFIG: {"r": 9}, WEIGHTS: bytes([9]) * 1000, "tokenizer.json": "{}"})
    now = hub.commit("org/sql").id
    write_adapter(tmp_path / "mine", seed=2)
    set_of("sql=org/sql", "chat=org/chat", "mine=./mine", "new=org/sql")
    forget_the_cache(monkeypatch, tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("NO_COLOR", "1")
    found = checked(capsys, 1)
    assert found["sql"]["drift"] == [
        f"main moved from {was[:12]} to {now[:12]}",
        "README.md is missing",
        f"{CONFIG} has different bytes",
        f"{WEIGHTS} has different bytes",
        "tokenizer.json is new",
    ]
    assert (found["sql"]["locked"], found["sql"]["now"]) == (was, now)
    assert found["mine"]["drift"] == [f"{WEIGHTS} has different bytes"]
    assert found["chat"]["drift"] == ["is locked for org/chat@main, but the manifest has org/chat"]
    assert (found["new"]["drift"], found["left_over"]) == (["is not locked"], ["old"])
    assert fetch("--check") == 1
    lines = [f"{name}: {'; '.join(found[name]['drift'])}" for name in ("sql", "chat", "mine", "new")]
    lines += ["old: is locked but not in the manifest"]
    lines += ["5 adapters: 5 changed; lock the new versions with --upgrade"]
    assert capsys.readouterr().out.splitlines() == lines
    assert (LOCK.read_bytes(), (tmp_path / "empty").exists()) == (before, False)


def test_check_ends_with_what_kept_an_origin_from_being_asked(hub: Hub, capsys: Capture) -> None:
    set_of("sql=org/sql", f"chat=org/chat@{hub.commit('org/chat').id}")
    assert fetch() == 0
    del hub.repos["org/sql"]
    asked = hub.count("org/chat")
    found = checked(capsys, 3)
    assert found["sql"]["error"]["message"]
    assert (found["chat"]["drift"], hub.count("org/chat")) == ([], asked), "a pinned commit costs no request"
    assert fetch("--check", "--offline") == 3
    assert "sql: not checked\n  hf://org/sql cannot be checked" in capsys.readouterr().out


def edited(pattern: str, by: str) -> Callable[[], object]:
    return lambda: LOCK.write_text(re.sub(pattern, by, LOCK.read_text()))


def other_bytes(path: str) -> Callable[[], object]:
    return lambda: rewrite(
        lambda one: replace(one, files={**one.files, path: Blob("ab" * 32, one.files[path].size)} if one.files else {})
    )


def a_lock_elsewhere() -> None:
    LOCK.unlink()
    LOCK.symlink_to("no/such/folder/lock.yaml")


REFUSED: dict[str, tuple[Callable[[], object], list[str], int, str]] = {
    "another source": (lambda: set_of("sql=org/chat", "chat=org/chat@main"), ["--locked"], 1, "does not match"),
    "one that is gone": (lambda: set_of("sql=org/sql"), ["--locked"], 1, "does not match set.yaml"),
    "one that is new": (lambda: set_of("new=org/sql"), ["--locked"], 1, "does not match set.yaml"),
    "no lock": (LOCK.unlink, ["--locked"], 3, "there is no lock set.lock.yaml"),
    "no commit": (
        lambda: rewrite(lambda one: replace(one, revision="main")), [], 2, "'main', which is not a commit",
    ),
    "edited": (edited("size: 1000", "size: 1001"), [], 2, "set.lock.yaml"),
    "edited, one is upgraded": (edited("size: 1000", "size: 1001"), ["--upgrade", "sql"], 2, "set.lock.yaml"),
    "of before": (edited("  endpoint: .*\n", ""), [], 2, "set.lock.yaml"),
    "something else": (lambda: LOCK.write_text("mine: 1\n"), ["--upgrade"], 2, "set.lock.yaml"),
    "other weights": (other_bytes(WEIGHTS), ["--locked"], 1, "--upgrade sql"),
    "another config, whose sha256 no listing has": (other_bytes(CONFIG), ["--locked"], 5, "--upgrade sql"),
    "a folder that is not there": (
        a_lock_elsewhere, [], 6, "--locked",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_lock_that_is_wrong_or_contradicts_gives_out_nothing(
    case: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert fetch() == 0
    spoil, argv, code, told = REFUSED[case]
    spoil()
    before = LOCK.read_bytes() if LOCK.exists() else b""
    forget_the_cache(monkeypatch, tmp_path)
    asked = hub.count()
    capsys.readouterr()
    assert fetch(*argv) == code
    out, err = capsys.readouterr()
    assert (out, told in err) == ("", True), err
    assert case.startswith(("other", "another config")) or hub.count() == asked
    assert (LOCK.read_bytes() if LOCK.exists() else b"") == before
    if "edited" in case or case == "of before":
        assert fetch("--upgrade") == 0, "it is written anew as a whole"


def test_pickled_weights_that_are_locked_need_the_permission_again(hub: Hub, capsys: Capture) -> None:
    hub.add("org/old", {CONFIG: {"r": 1}, "adapter_model.bin": b"\x80\x02."})
    set_of("old=org/old")
    assert fetch("--allow-pickle") == 0
    assert fetch("--locked") == 1
    assert "--allow-pickle" in capsys.readouterr().err
    assert fetch("--locked", "--allow-pickle") == 0


@pytest.mark.parametrize(
    "line",
    [
        "-f set.yaml --locked --upgrade",
        "-f set.yaml --check --locked",
        "-f set.yaml --upgrade sq",
        "-f set.yaml --locked --include *",
        "-f set.yaml org/sql",
        *(f"-f set.yaml --shard {shard}" for shard in ("2/2", "0/0", "one", "-1/2", "1/2/3")),
        "org/sql --locked",
        "org/sql --check",
        "org/sql --upgrade",
    ],
)
def test_what_makes_no_sense_is_exit_2_and_asks_nobody(line: str, hub: Hub, capsys: Capture) -> None:
    LOCK.write_text(dump_lock({}))
    assert main(["fetch", *line.split()]) == 2
    assert (capsys.readouterr().out, hub.count()) == ("", 0)
