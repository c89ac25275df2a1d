"""``fetch -f`` and its lock: what is pinned stays, what moved is said, and nothing is asked twice."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from lora_cli.cli.main import main
from lora_cli.documents.lockfile import read_lock
from tests.cli.locked_sets import CONFIG, WEIGHTS, Capture, fetch, files, forget_the_cache, hub_of_two, locked, set_of
from tests.hf_variables import set_variables
from tests.hub_server import Hub


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    yield from hub_of_two(tmp_path, monkeypatch)


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


def test_names_with_a_manifest_choose_what_is_fetched_locked_and_looked_at(hub: Hub, capsys: Capture) -> None:
    assert fetch("chat") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert list(read_lock(Path("set.lock.yaml"))) == ["chat"]
    assert fetch() == 0
    sql, chat = locked("sql"), locked("chat")
    hub.add("org/sql", files(3))
    hub.add("org/chat", files(4))
    capsys.readouterr()
    assert fetch("--check", "chat") == 1
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["chat"]
    assert fetch("--upgrade", "chat") == 0
    assert (locked("sql"), locked("chat").revision) == (sql, hub.commit("org/chat").id)
    assert chat.revision != locked("chat").revision
    assert fetch("sqk") == 2
    assert "set.yaml has no adapter 'sqk'\nhint: did you mean sql?" in capsys.readouterr().err


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
    assert list(read_lock(Path("set.lock.yaml"))) == ["chat", "new", "sql"]
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "Updated chat org/chat@main -> org/chat",
        "set.lock.yaml: 1 added, 1 updated, 1 removed",
    ]


def test_one_that_fails_keeps_its_entry_and_the_others_are_locked(hub: Hub) -> None:
    assert fetch() == 0
    first = locked("sql")
    hub.add("org/chat", files(7))
    del hub.repos["org/sql"]
    set_of("sql=org/sql@main", "chat=org/chat@main", "none=org/none")
    assert fetch("--upgrade") == 3
    lock = read_lock(Path("set.lock.yaml"))
    assert lock["sql"] == first
    assert "none" not in lock
    assert locked("chat").revision == hub.commit("org/chat").id


def test_other_files_than_usual_are_locked_and_come_again_without_being_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub: Hub
) -> None:
    hub.add("org/sql", {**files(1), "LICENSE": "free"})
    set_of("sql=org/sql")
    assert fetch("--include", "LICENSE") == 0
    assert set(locked("sql").files) == {CONFIG, WEIGHTS, "LICENSE", "README.md"}
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


def test_a_link_to_a_lock_stays_one(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    Path("set.lock.yaml").symlink_to("locks/a.yaml")
    assert fetch() == 0
    assert Path("set.lock.yaml").is_symlink()
    assert "sql" in read_lock(Path("locks/a.yaml"))


def test_another_server_than_when_it_was_locked_is_told_in_one_line_and_the_digests_decide(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    assert fetch() == 0
    before = Path("set.lock.yaml").read_bytes()
    assert (locked("sql").endpoint, "endpoints" in capsys.readouterr().err) == (hub.endpoint, False)
    mirror = hub.endpoint.replace("127.0.0.1", "localhost")
    monkeypatch.setenv("HF_ENDPOINT", mirror)
    forget_the_cache(monkeypatch, tmp_path)
    for argv in ([], ["--locked"], ["--upgrade"]):
        assert fetch(*argv) == 0
        told = [line for line in capsys.readouterr().err.splitlines() if "endpoints" in line]
        assert told == [
            f"other endpoints than in set.lock.yaml: sql, chat: locked from {hub.endpoint}, now from {mirror}"
        ]
        assert Path("set.lock.yaml").read_bytes() == before
    hub.add("org/sql", files(9))
    assert fetch("--upgrade") == 0
    assert (locked("sql").endpoint, locked("chat").endpoint) == (mirror, hub.endpoint)


@pytest.mark.slow
def test_a_set_that_comes_through_a_pipe_has_no_lock(hub: Hub) -> None:
    def piped(*argv: str) -> int:
        command = [sys.executable, "-m", "lora_cli", "fetch", "-f", "-", *argv]
        return subprocess.run(command, input=Path("set.yaml").read_bytes(), capture_output=True, check=False).returncode

    assert piped("--locked") == 2
    assert piped() == 0
    assert not list(Path().glob("*lock*"))


NO_SOCKET = """
import sys
def hook(event, arguments):
    if event.startswith("socket.") and event != "socket.gethostname":
        sys.stderr.write(f"a socket: {event}\\n")
        raise SystemExit(99)
sys.addaudithook(hook)
from lora_cli.inputs import read_inputs
from lora_cli.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
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
    assert list(read_lock(Path("set.lock.yaml"))) == ["sql"]
    assert hub.connections == before


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
    set_variables(monkeypatch, HF_HOME=str(theirs.parent))
    forget_the_cache(monkeypatch, tmp_path)
    before = hub.connections
    capsys.readouterr()
    assert fetch("--locked", "--offline") == 3
    assert "sql: README.md is not cached" in capsys.readouterr().err
    assert hub.connections == before
    download("README.md")
    before = hub.connections
    assert fetch("--locked", "--offline") == 0
    assert hub.connections == before
