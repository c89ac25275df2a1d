"""``fetch -f`` and its lock: what is pinned stays, what moved is told, and nothing is asked twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_cli.documents.manifest import read_lock
from tests.cli.locked_sets import (
    CONFIG,
    LOCK,
    WEIGHTS,
    files,
    forget_the_cache,
    hub_of_two,
    locked,
    set_of,
)
from tests.cli.running import Run
from tests.hub_server import Hub
from tests.making import write_adapter

FETCH = "fetch -f set.yaml"


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    yield from hub_of_two(monkeypatch)


def test_a_lock_is_written_beside_the_manifest_and_what_it_has_costs_no_request(hub: Hub, run: Run) -> None:
    out, err = run(FETCH)
    assert locked("sql").revision == hub.commit("org/sql").id
    assert locked("chat").source == "org/chat@main"
    assert set(locked("sql").files) == {CONFIG, WEIGHTS, "README.md"}
    assert [Path(line).name for line in out.splitlines()] == [locked("sql").digest, locked("chat").digest]
    assert err.splitlines()[-2:] == ["set.lock.yaml: 2 added", "2 adapters: 2 downloaded; 2.0 KiB"]
    assert LOCK.stat().st_mode & 0o777 == 0o644
    before, asked = LOCK.stat(), hub.connections
    for words in ("", "--locked", "--offline", "--offline --locked"):
        assert "set.lock.yaml" not in run(f"{FETCH} {words}").err
    assert (LOCK.stat().st_ino, LOCK.stat().st_mtime_ns, hub.connections) == (before.st_ino, before.st_mtime_ns, asked)


def test_pickled_weights_that_are_locked_and_cached_are_asked_for_each_time(hub: Hub, run: Run) -> None:
    hub.add("org/sql", {CONFIG: {"r": 1}, "adapter_model.bin": b"pickled"})
    run(f"{FETCH} --allow-pickle")
    for words in ("", "--locked", "--offline"):
        assert "sql has only pickled weights (adapter_model.bin)" in run(f"{FETCH} {words}", 1).err


def test_names_choose_what_is_fetched_locked_and_looked_at(hub: Hub, run: Run) -> None:
    assert len(run(f"{FETCH} chat").out.splitlines()) == 1
    assert list(read_lock(LOCK)) == ["chat"]
    told = run("validate -f set.yaml --base none", 1).err  # they are no weights
    assert told == "warning: 1 adapter of set.yaml is not locked: sql; lora-cli fetch -f set.yaml locks what it can\n"
    run(FETCH)
    sql = locked("sql")
    hub.add("org/sql", files(3))
    hub.add("org/chat", files(4))
    out = run(f"{FETCH} --check chat", 1).out
    assert [line.partition(":")[0] for line in out.splitlines() if line[0] != " "] == ["chat", "1 adapter"]
    run(f"{FETCH} --upgrade chat")
    assert (locked("sql"), locked("chat").revision) == (sql, hub.commit("org/chat").id)
    assert "set.yaml has no adapter 'sqk'\nhint: did you mean sql?" in run(f"{FETCH} sqk", 2).err


def test_another_machine_gets_the_locked_commit_and_not_what_the_branch_is_now(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    hub.add("org/sql", {**files(1), "LICENSE": "free"})
    run(f"{FETCH} --include LICENSE")
    first = LOCK.read_bytes()
    hub.add("org/sql", files(3))
    forget_the_cache(monkeypatch)
    directory = Path(run(f"{FETCH} --locked").out.splitlines()[0])
    assert {path.name for path in directory.iterdir()} == {CONFIG, WEIGHTS, "LICENSE", "README.md"}
    assert (directory / WEIGHTS).read_bytes() == bytes([1]) * 1000
    assert (directory.name, LOCK.read_bytes()) == (locked("sql").digest, first)


def test_only_entries_that_are_new_changed_or_gone_move_and_one_that_fails_keeps_its_own(hub: Hub, run: Run) -> None:
    hub.add("org/tone", files(5))
    set_of("sql=org/sql", "chat=org/chat@main", "old=org/tone")
    run(FETCH)
    first = locked("sql")
    for repo in ("org/sql", "org/chat"):
        hub.add(repo, files(6))
    set_of("sql=org/sql", "chat=org/chat", "new=org/tone")
    told = run(FETCH).err.splitlines()
    assert told[-3:-1] == ["Updated chat org/chat@main -> org/chat", "set.lock.yaml: 1 added, 1 updated, 1 removed"]
    assert (locked("sql"), locked("chat").revision) == (first, hub.commit("org/chat").id)
    assert list(read_lock(LOCK)) == ["chat", "new", "sql"]
    del hub.repos["org/sql"]
    hub.add("org/chat", files(7))
    set_of("sql=org/sql", "chat=org/chat", "none=org/none")
    run(f"{FETCH} --upgrade", 3)
    assert (locked("sql"), locked("chat").revision) == (first, hub.commit("org/chat").id)
    assert list(read_lock(LOCK)) == ["chat", "sql"]


def test_another_server_than_when_it_was_locked_is_told_in_one_line_and_the_digests_decide(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    run(FETCH)
    before, mirror = LOCK.read_bytes(), hub.endpoint.replace("127.0.0.1", "localhost")
    monkeypatch.setenv("HF_ENDPOINT", mirror)
    forget_the_cache(monkeypatch)
    for word in ("", "--locked", "--upgrade"):
        (told,) = [line for line in run(f"{FETCH} {word}").err.splitlines() if "endpoints" in line]
        moved = f"sql, chat: locked from {hub.endpoint}, now from {mirror}"
        assert told == f"other endpoints than in set.lock.yaml: {moved}"
        assert LOCK.read_bytes() == before


def test_every_adapter_is_in_one_shard_and_a_shard_keeps_what_others_locked(run: Run, hub: Hub) -> None:
    names = [f"a{number}" for number in range(12)]
    for number, name in enumerate(names):
        hub.add(f"org/{name}", files(number))
    set_of(*(f"{name}=org/{name}" for name in names))
    done: list[str] = []
    for index in range(3):
        document = run(f"{FETCH} --shard {index}/3 --to out --format json").document
        done += [adapter["name"] for adapter in document["adapters"]]
        assert set(read_lock(LOCK)) == set(done)
    assert sorted(done) == sorted(names)
    assert {path.name for path in Path("out").iterdir()} == set(names)


@pytest.mark.parametrize("rule", ["require_pinned", "require_sha256"])
def test_a_lock_is_a_pin_and_a_digest_for_a_policy(rule: str, run: Run) -> None:
    run(FETCH)
    Path("set.yaml").write_text(f"{Path('set.yaml').read_text()}policy: {{{rule}: true}}\n")
    run(f"{FETCH} --locked")
    LOCK.unlink()
    assert rule in run(FETCH, 1).err


def checked(run: Run, code: int) -> dict[str, Any]:
    document = run(f"{FETCH} --check --format json", code).document
    assert (document["schema"], document["exit_code"]) == ("lora_cli/fetch-check/1", code)
    return {adapter["name"]: adapter for adapter in document["adapters"]} | {"left_over": document["left_over"]}


def test_check_tells_what_the_origins_have_now_and_changes_nothing(
    hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "mine", seed=1)
    set_of("sql=org/sql", "chat=org/chat@main", "mine=./mine", "old=org/chat")
    run(FETCH)
    run(f"{FETCH} --check")
    before, was = LOCK.read_bytes(), hub.commit("org/sql").id
    hub.add("org/sql", {CONFIG: {"r": 9}, WEIGHTS: bytes([9]) * 1000, "tokenizer.json": "{}"})
    now = hub.commit("org/sql").id
    write_adapter(tmp_path / "mine", seed=2)
    set_of("sql=org/sql", "chat=org/chat", "mine=./mine", "new=org/sql")
    forget_the_cache(monkeypatch)
    monkeypatch.setenv("COLUMNS", "300")
    found = checked(run, 1)
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
    assert run(f"{FETCH} --check", 1).out.splitlines() == [
        *(f"{name}: {'; '.join(found[name]['drift'])}" for name in ("sql", "chat", "mine", "new")),
        "old: is locked but not in the manifest",
        "5 adapters: 5 changed; lock the new versions with --upgrade",
    ]
    for entries, said in {
        "chat=org/chat new=org/sql": f"chat {found['chat']['drift'][0]} (and 2 more)",
        "chat=org/chat@main new=org/sql": "new is not locked (and 1 more)",
        "chat=org/chat@main": "old is locked but not in the manifest",
    }.items():
        set_of("sql=org/sql", "mine=./mine", *entries.split())
        assert f"{LOCK} does not match set.yaml: {said}" in run(f"{FETCH} --locked", 1).err
    assert (LOCK.read_bytes(), Path("empty").exists()) == (before, False)


def test_check_ends_with_what_kept_an_origin_from_being_asked(hub: Hub, run: Run) -> None:
    set_of("sql=org/sql", f"chat=org/chat@{hub.commit('org/chat').id}")
    run(FETCH)
    del hub.repos["org/sql"]
    asked = hub.count("org/chat")
    found = checked(run, 3)
    assert found["sql"]["error"]["message"]
    assert (found["chat"]["drift"], hub.count("org/chat")) == ([], asked), "a pinned commit costs no request"
    assert "sql: not checked\n  hf://org/sql cannot be checked" in run(f"{FETCH} --check --offline", 3).out


REFUSED = {
    "another source": ("sql=org/chat", "", "--locked", 1),
    "one that is new": ("new=org/sql", "", "--locked", 1),
    "edited": ("sql=org/sql", "size: 1000", "", 2),
    "edited, and another is upgraded": ("sql=org/sql", "size: 1000", "--upgrade chat", 2),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_lock_that_is_wrong_or_contradicts_gives_out_nothing_and_asks_nobody(
    case: str, hub: Hub, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    run(FETCH)
    entry, spoilt, words, code = REFUSED[case]
    set_of(entry, "chat=org/chat@main")
    LOCK.write_text(LOCK.read_text().replace(spoilt, "size: 1001", 1) if spoilt else LOCK.read_text())
    before, asked = LOCK.read_bytes(), hub.count()
    forget_the_cache(monkeypatch)
    out, err = run(f"{FETCH} {words}", code)
    assert (out, "set.lock.yaml" in err, LOCK.read_bytes(), hub.count()) == ("", True, before, asked), err
    if spoilt:
        run(f"{FETCH} --upgrade")
