"""``fetch -f`` and its lock: what is pinned stays, what moved is said, and nothing is asked twice."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import hf_hub_download

from lora_cli.cli.lineup import lineup
from lora_cli.cli.main import main
from lora_cli.core.lock import Lock, LockedAdapter, dump_lock
from lora_cli.core.snapshot import Blob
from lora_cli.read.manifest import read_lock
from tests.hub_content import Content
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base_config

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Capture = pytest.CaptureFixture[str]


def files(number: int) -> dict[str, Content]:
    return {CONFIG: {"r": number}, WEIGHTS: bytes([number]) * 1000, "README.md": "read"}


def set_of(*entries: str) -> None:
    lines = "".join(f"  - {{name: {entry.split('=')[0]}, source: {entry.split('=')[1]}}}\n" for entry in entries)
    Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters:\n{lines}")


def locked(name: str) -> LockedAdapter:
    found = read_lock(Path("set.lock.yaml")).adapter(name)
    assert found is not None
    return found


def rewrite(change: Callable[[LockedAdapter], LockedAdapter]) -> None:
    lock = read_lock(Path("set.lock.yaml"))
    Path("set.lock.yaml").write_text(dump_lock(Lock(tuple(change(adapter) for adapter in lock.adapters))))


def fetch(*argv: str) -> int:
    return main(["fetch", "-f", "set.yaml", *argv])


def forget_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "empty"))


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    monkeypatch.setenv("LORA_CLI_TIMEOUT", "5s")
    monkeypatch.chdir(tmp_path)
    with Hub() as hub:
        hub.add("org/sql", files(1))
        hub.add("org/chat", files(2))
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        set_of("sql=org/sql", "chat=org/chat@main")
        yield hub


def test_a_lock_is_written_beside_the_manifest_with_commit_files_and_digests(hub: Hub, capsys: Capture) -> None:
    assert fetch() == 0
    out, err = capsys.readouterr()
    assert locked("sql").revision == hub.commit("org/sql").id
    assert locked("chat").source == "org/chat@main"
    assert set(locked("sql").files) == {CONFIG, WEIGHTS, "README.md"}
    assert [Path(line).name for line in out.splitlines()] == [locked("sql").digest, locked("chat").digest]
    assert err.splitlines()[-1] == "set.lock.yaml: 2 added"
    assert Path("set.lock.yaml").stat().st_mode & 0o777 == 0o644


def test_what_is_locked_and_here_costs_no_request_and_the_lock_is_left_alone(hub: Hub, capsys: Capture) -> None:
    assert fetch() == 0
    before, asked = Path("set.lock.yaml").stat(), hub.count()
    capsys.readouterr()
    assert fetch() == 0
    after = Path("set.lock.yaml").stat()
    assert (after.st_ino, after.st_mtime_ns, hub.count()) == (before.st_ino, before.st_mtime_ns, asked)
    assert "set.lock.yaml" not in capsys.readouterr().err


def test_a_branch_that_moved_stays_where_it_is_locked_until_it_is_upgraded(hub: Hub) -> None:
    assert fetch() == 0
    first = locked("sql")
    hub.add("org/sql", files(3))
    hub.add("org/chat", files(4))
    assert fetch() == 0
    assert locked("sql") == first
    assert fetch("--upgrade", "sql") == 0
    assert locked("sql").revision == hub.commit("org/sql").id != first.revision
    assert locked("chat").revision != hub.commit("org/chat").id
    assert fetch("--upgrade") == 0
    assert locked("chat").revision == hub.commit("org/chat").id


def test_another_machine_gets_the_locked_commit_and_not_what_the_branch_is_now(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    assert fetch() == 0
    first = Path("set.lock.yaml").read_bytes()
    hub.add("org/sql", files(3))
    forget_the_cache(monkeypatch, tmp_path)
    capsys.readouterr()
    assert fetch("--locked") == 0
    directory = Path(capsys.readouterr().out.splitlines()[0])
    assert (directory / WEIGHTS).read_bytes() == bytes([1]) * 1000
    assert directory.name == locked("sql").digest
    assert Path("set.lock.yaml").read_bytes() == first


def test_an_origin_that_is_gone_does_not_matter_to_what_is_locked_and_here(hub: Hub) -> None:
    assert fetch() == 0
    hub.repos.clear()
    before = hub.connections
    assert fetch("--locked") == 0
    assert fetch() == 0
    assert hub.connections == before


def test_a_snapshot_that_was_removed_is_made_from_the_blobs_that_are_here(hub: Hub) -> None:
    assert fetch() == 0
    digest = locked("sql").digest
    folder = Path("cache/snapshots/sha256", digest)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    before = hub.count()
    assert fetch("--locked") == 0
    assert (folder / WEIGHTS).is_file()
    assert hub.count() == before


@pytest.mark.parametrize("entries", [["sql=org/chat", "chat=org/chat@main"], ["sql=org/sql"], ["new=org/sql"]])
def test_locked_refuses_a_manifest_that_is_not_the_locked_one(entries: list[str], hub: Hub, capsys: Capture) -> None:
    assert fetch() == 0
    before = hub.count()
    set_of(*entries)
    capsys.readouterr()
    assert fetch("--locked") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "does not fit set.yaml" in err
    assert hub.count() == before


def test_locked_without_a_lock_is_refused_before_anything_is_fetched(hub: Hub, capsys: Capture) -> None:
    assert fetch("--locked") == 1
    assert "there is no lock set.lock.yaml" in capsys.readouterr().err
    assert hub.count() == 0


def test_entries_that_are_new_changed_or_gone_are_the_only_ones_that_move(hub: Hub, capsys: Capture) -> None:
    hub.add("org/tone", files(5))
    set_of("sql=org/sql", "chat=org/chat@main", "old=org/tone")
    assert fetch() == 0
    first = locked("sql")
    for repo in ("org/sql", "org/chat"):
        hub.add(repo, files(6))
    capsys.readouterr()
    set_of("sql=org/sql", "chat=org/chat", "new=org/tone")
    assert fetch() == 0
    assert locked("sql") == first
    assert locked("chat").revision == hub.commit("org/chat").id
    assert [adapter.name for adapter in read_lock(Path("set.lock.yaml")).adapters] == ["chat", "new", "sql"]
    assert capsys.readouterr().err.splitlines()[-1] == "set.lock.yaml: 1 added, 1 changed, 1 dropped"


def test_one_that_fails_keeps_its_entry_and_the_others_are_locked(hub: Hub) -> None:
    assert fetch() == 0
    first = locked("sql")
    hub.add("org/chat", files(7))
    del hub.repos["org/sql"]
    set_of("sql=org/sql@main", "chat=org/chat@main", "none=org/none")
    assert fetch("--upgrade") == 3
    lock = read_lock(Path("set.lock.yaml"))
    assert lock.adapter("sql") == first
    assert lock.adapter("none") is None
    assert locked("chat").revision == hub.commit("org/chat").id


def test_nothing_that_could_be_fetched_is_no_lock() -> None:
    set_of("none=org/none")
    assert fetch() == 3
    assert not Path("set.lock.yaml").exists()


def test_a_folder_is_locked_by_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    write_adapter(tmp_path / "mine", seed=1)
    set_of("mine=./mine")
    assert fetch() == 0
    first = locked("mine")
    assert first.revision == ""
    write_adapter(tmp_path / "mine", seed=2)
    assert fetch("--locked") == 0  # The bytes that are locked are in the cache.
    assert fetch() == 0
    assert locked("mine").digest != first.digest
    rewrite(lambda _: first)
    forget_the_cache(monkeypatch, tmp_path)
    capsys.readouterr()
    assert fetch("--locked") == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert "--upgrade mine" in err


def wrong(path: str, digest: str) -> Callable[[LockedAdapter], LockedAdapter]:
    def change(adapter: LockedAdapter) -> LockedAdapter:
        return replace(adapter, files={**adapter.files, path: Blob(digest, adapter.files[path].size)})

    return change


@pytest.mark.parametrize(
    ("path", "code"),
    [(WEIGHTS, 1), (CONFIG, 5)],  # The Hub lists the sha256 of the one, and of the other only a git id.
)
def test_other_bytes_than_are_locked_are_never_handed_out(
    path: str, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    set_of("sql=org/sql")
    assert fetch() == 0
    rewrite(wrong(path, "ab" * 32))
    forget_the_cache(monkeypatch, tmp_path)
    capsys.readouterr()
    assert fetch("--locked") == code
    out, err = capsys.readouterr()
    assert out == ""
    assert path in err
    assert "--upgrade sql" in err


def test_a_revision_that_is_no_commit_is_an_error_of_the_lock(hub: Hub, capsys: Capture) -> None:
    assert fetch() == 0
    before = hub.count()
    rewrite(lambda adapter: replace(adapter, revision="main"))
    assert fetch() == 2
    assert "'main', which is no commit" in capsys.readouterr().err
    assert hub.count() == before


def test_a_lock_that_was_edited_is_written_anew_only_by_upgrade() -> None:
    assert fetch() == 0
    good = Path("set.lock.yaml").read_text()
    Path("set.lock.yaml").write_text(good.replace("size: 1000", "size: 1001"))
    assert fetch() == 2
    assert fetch("--upgrade", "sql") == 2
    assert fetch("--upgrade") == 0
    assert Path("set.lock.yaml").read_text() == good


@pytest.mark.parametrize("argv", [[], ["--upgrade"], ["--locked"]])
def test_what_is_no_lock_is_never_written_over(argv: list[str], hub: Hub) -> None:
    before = Path("set.yaml").read_bytes()
    assert fetch("--lock", "set.yaml", *argv) == 2
    assert Path("set.yaml").read_bytes() == before
    assert hub.count() == 0
    Path("set.lock.yaml").touch()
    assert fetch("--upgrade") == 0
    assert locked("sql").files


def test_other_files_than_usual_are_locked_and_come_again_without_being_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub: Hub
) -> None:
    hub.add("org/sql", {**files(1), "LICENSE": "free"})
    set_of("sql=org/sql")
    assert fetch("--include", "LICENSE", "--exclude", "README.md") == 0
    assert set(locked("sql").files) == {CONFIG, WEIGHTS, "LICENSE"}
    first = Path("set.lock.yaml").read_bytes()
    forget_the_cache(monkeypatch, tmp_path)
    assert fetch("--locked") == 0
    assert fetch() == 0
    assert Path("set.lock.yaml").read_bytes() == first
    # What is usual is not mixed up with what was locked.
    assert main(["fetch", f"org/sql@{locked('sql').revision}", "--to", "usual"]) == 0
    assert {path.name for path in Path("usual").iterdir()} == {CONFIG, WEIGHTS, "README.md"}
    assert fetch("--include", "nothing") == 0
    assert set(locked("sql").files) == {CONFIG, WEIGHTS, "README.md"}


def test_pickled_weights_that_are_locked_need_the_permission_again(hub: Hub, capsys: Capture) -> None:
    hub.add("org/old", {CONFIG: {"r": 1}, "adapter_model.bin": b"\x80\x02."})
    set_of("old=org/old")
    assert fetch("--allow-pickle") == 0
    assert fetch("--locked") == 1
    assert "--allow-pickle" in capsys.readouterr().err
    assert fetch("--locked", "--allow-pickle") == 0


def test_a_lock_that_cannot_be_written_is_said_before_anything_is_fetched(hub: Hub, capsys: Capture) -> None:
    assert fetch("--lock", "no/such/folder/set.lock.yaml") == 6
    assert "--locked" in capsys.readouterr().err
    assert hub.count() == 0
    assert fetch("--lock", "/proc/set.lock.yaml") == 6


def test_a_lock_elsewhere_is_used_and_written_and_a_link_to_it_stays_one(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    Path("current").symlink_to("locks/a.yaml")
    assert fetch("--lock", "current") == 0
    assert Path("current").is_symlink()
    assert read_lock(Path("locks/a.yaml")).adapter("sql") is not None
    assert not Path("set.lock.yaml").exists()
    assert fetch("--locked", "--lock", "current") == 0


@pytest.mark.parametrize(
    "argv",
    [
        ["-f", "set.yaml", "--locked", "--upgrade"],
        ["-f", "set.yaml", "--check", "--locked"],
        ["-f", "set.yaml", "--upgrade", "sq"],
        ["-f", "set.yaml", "--locked", "--include", "*"],
        ["-f", "set.yaml", "sql"],
        ["-f", "set.yaml", "--shard", "2/2"],
        ["-f", "set.yaml", "--shard", "0/0"],
        ["-f", "set.yaml", "--shard", "one"],
        ["org/sql", "--locked"],
        ["org/sql", "--check"],
        ["org/sql", "--upgrade"],
        ["org/sql", "--lock", "x"],
    ],
)
def test_what_makes_no_sense_is_exit_2_and_asks_nobody(argv: list[str], hub: Hub, capsys: Capture) -> None:
    Path("set.lock.yaml").write_text(dump_lock(Lock(())))
    assert main(["fetch", *argv]) == 2
    assert capsys.readouterr().out == ""
    assert hub.count() == 0


def test_a_set_that_comes_through_a_pipe_has_a_lock_only_where_one_is_named(hub: Hub) -> None:
    def piped(*argv: str) -> int:
        command = [sys.executable, "-m", "lora_cli", "fetch", "-f", "-", *argv]
        return subprocess.run(command, input=Path("set.yaml").read_bytes(), capture_output=True, check=False).returncode

    assert piped("--locked") == 2
    assert piped() == 0
    assert not list(Path().glob("*lock*"))
    assert piped("--lock", "here.yaml") == 0
    assert read_lock(Path("here.yaml")).adapter("sql") is not None


def test_json_tells_what_became_of_the_lock(capsys: Capture) -> None:
    assert fetch("--format", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["lock"] == {"file": "set.lock.yaml", "added": ["chat", "sql"], "changed": [], "removed": []}
    assert main(["fetch", "org/sql", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["lock"] is None


def check(capsys: Capture, code: int) -> dict[str, Any]:
    capsys.readouterr()
    assert fetch("--check", "--format", "json") == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["schema"] == "lora_cli/fetch-check/1"
    assert document["exit_code"] == code
    return {adapter["name"]: adapter for adapter in document["adapters"]} | {"left_over": document["left_over"]}


def test_check_says_nothing_while_nothing_moved(hub: Hub, capsys: Capture) -> None:
    assert fetch() == 0
    found = check(capsys, 0)
    assert [found[name]["drift"] for name in ("sql", "chat")] == [[], []]
    assert fetch("--check") == 0
    assert capsys.readouterr().out == "sql: as locked\nchat: as locked\n"


def test_check_tells_what_the_origins_have_now_and_changes_nothing(
    hub: Hub, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "mine", seed=1)
    set_of("sql=org/sql", "chat=org/chat@main", "mine=./mine", "old=org/chat")
    assert fetch() == 0
    before = Path("set.lock.yaml").read_bytes()
    was = hub.commit("org/sql").id
    hub.add("org/sql", {CONFIG: {"r": 9}, WEIGHTS: bytes([9]) * 1000, "tokenizer.json": "{}"})
    write_adapter(tmp_path / "mine", seed=2)
    set_of("sql=org/sql", "chat=org/chat", "mine=./mine", "new=org/sql")
    forget_the_cache(monkeypatch, tmp_path)
    found = check(capsys, 1)
    assert found["sql"]["drift"] == [
        f"main moved from {was[:12]} to {hub.commit('org/sql').id[:12]}",
        "README.md is gone",
        f"{CONFIG} has other bytes",
        f"{WEIGHTS} has other bytes",
        "tokenizer.json is new",
    ]
    assert (found["sql"]["locked"], found["sql"]["now"]) == (was, hub.commit("org/sql").id)
    assert found["mine"]["drift"] == [f"{WEIGHTS} has other bytes"]
    assert found["chat"]["drift"] == ["is locked for org/chat@main, and the manifest has org/chat"]
    assert found["new"]["drift"] == ["is not locked"]
    assert found["left_over"] == ["old"]
    assert Path("set.lock.yaml").read_bytes() == before
    assert not (tmp_path / "empty").exists()


def test_check_ends_with_what_kept_an_origin_from_being_asked(hub: Hub, capsys: Capture) -> None:
    assert fetch() == 0
    del hub.repos["org/sql"]
    found = check(capsys, 3)
    assert found["sql"]["error"]["message"]
    assert found["chat"]["drift"] == []
    assert fetch("--check", "--offline") == 3
    assert "error: sql: hf://org/sql cannot be asked" in capsys.readouterr().err


def test_check_without_a_lock_is_drift(capsys: Capture, hub: Hub) -> None:
    assert check(capsys, 1)["sql"]["drift"] == ["is not locked"]
    assert hub.count() == 0


def test_a_pinned_commit_is_checked_without_a_request(hub: Hub, capsys: Capture) -> None:
    set_of(f"sql=org/sql@{hub.commit('org/sql').id}")
    assert fetch() == 0
    before = hub.count()
    check(capsys, 0)
    assert hub.count() == before


NO_SOCKET = """
import sys
def hook(event, arguments):
    if event.startswith("socket.") and event != "socket.gethostname":
        sys.stderr.write(f"a socket: {event}\\n")
        raise SystemExit(99)
sys.addaudithook(hook)
from lora_cli.cli.lineup import lineup
from lora_cli.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("argv", [["--offline"], ["--offline", "--locked"], ["--locked"]])
def test_no_socket_is_opened_for_what_is_locked_and_here(argv: list[str], hub: Hub) -> None:
    assert fetch() == 0
    hub.add("org/sql", files(8))

    def child(*argv: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", NO_SOCKET, "fetch", "-f", "set.yaml", *argv]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = child(*argv)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2), done.stderr
    assert child("--upgrade").returncode != 0  # The hook does see sockets.


def test_offline_locks_what_is_remembered_and_says_what_is_not_here(hub: Hub, capsys: Capture) -> None:
    assert main(["fetch", "org/sql"]) == 0
    before = hub.connections
    assert fetch("--offline") == 3
    assert locked("sql").revision == hub.commit("org/sql").id
    assert [adapter.name for adapter in read_lock(Path("set.lock.yaml")).adapters] == ["sql"]
    assert hub.connections == before


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
        assert {adapter.name for adapter in read_lock(Path("set.lock.yaml")).adapters} == set(done)
    assert sorted(done) == sorted(names)
    assert {path.name for path in Path("out").iterdir()} == set(names)
    before = hub.count()
    assert fetch("--locked", "--shard", "1/3") == 0
    assert hub.count() == before


def test_a_shard_with_nothing_in_it_is_done(capsys: Capture, hub: Hub) -> None:
    set_of("sql=org/sql")
    codes = [fetch("--shard", f"{index}/2") for index in range(2)]
    assert codes == [0, 0]
    assert len(capsys.readouterr().out.splitlines()) == 1


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


def test_warm_and_serve_bench_work_on_what_is_locked(hub: Hub, tmp_path: Path) -> None:
    write_adapter(tmp_path / "mine", seed=1)
    set_of("sql=org/sql", "mine=./mine", "chat=org/chat@main")
    assert fetch() == 0
    hub.add("org/sql", files(3))
    set_of("sql=org/sql", "mine=./mine", "chat=org/chat")
    asked = lineup(Path("set.yaml"), [], "acme/base", "warm", "warm")
    sql, mine, chat = asked.items
    assert str(sql.source) == f"hf://org/sql@{locked('sql').revision}"
    assert asked.demand(sql).locked == locked("sql")
    assert (mine.locked, chat.locked, str(chat.source)) == (None, None, "hf://org/chat")


def test_offline_the_cache_of_the_hubs_own_client_is_enough_only_when_it_has_all_that_is_locked(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    set_of("sql=org/sql")
    assert fetch() == 0
    theirs = tmp_path / "home" / "hub"

    def download(name: str) -> None:
        hf_hub_download("org/sql", name, endpoint=hub.endpoint, cache_dir=theirs, token=False)

    download(CONFIG)
    download(WEIGHTS)
    monkeypatch.setenv("HF_HOME", str(theirs.parent))
    forget_the_cache(monkeypatch, tmp_path)
    before = hub.connections
    capsys.readouterr()
    assert fetch("--locked", "--offline") == 3
    assert "sql: the cache lacks README.md" in capsys.readouterr().err
    assert hub.connections == before
    download("README.md")
    before = hub.connections
    assert fetch("--locked", "--offline") == 0
    assert hub.connections == before


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
