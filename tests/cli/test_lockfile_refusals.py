"""Locks that are wrong, edited, elsewhere or not to be written, and what is refused because of one."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.documents.lockfile import dump_lock
from lora_cli.refs.lock import LockedAdapter
from lora_cli.refs.snapshot import Blob
from tests.cli.locked_sets import CONFIG, WEIGHTS, Capture, fetch, forget_the_cache, hub_of_two, locked, rewrite, set_of
from tests.hub_server import Hub


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    yield from hub_of_two(tmp_path, monkeypatch)


@pytest.mark.parametrize("entries", [["sql=org/chat", "chat=org/chat@main"], ["sql=org/sql"], ["new=org/sql"]])
def test_locked_refuses_a_manifest_that_is_not_the_locked_one(entries: list[str], hub: Hub, capsys: Capture) -> None:
    assert fetch() == 0
    before = hub.count()
    set_of(*entries)
    capsys.readouterr()
    assert fetch("--locked") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "does not match set.yaml" in err
    assert hub.count() == before


def test_locked_without_a_lock_is_3_like_a_manifest_that_is_not_there(hub: Hub, capsys: Capture) -> None:
    assert fetch("--locked") == main(["fetch", "-f", "none.yaml"]) == 3
    assert "there is no lock set.lock.yaml" in capsys.readouterr().err
    assert hub.count() == 0


def test_nothing_that_could_be_fetched_is_no_lock() -> None:
    set_of("none=org/none")
    assert fetch() == 3
    assert not Path("set.lock.yaml").exists()


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
    assert "'main', which is not a commit" in capsys.readouterr().err
    assert hub.count() == before


@pytest.mark.parametrize("change", [("size: 1000", "size: 1001"), ("  endpoint: .*\n", "")])
def test_a_lock_that_was_edited_or_is_of_before_is_written_anew_only_by_upgrade(change: tuple[str, str]) -> None:
    assert fetch() == 0
    good = Path("set.lock.yaml").read_text()
    Path("set.lock.yaml").write_text(re.sub(*change, good))
    assert fetch() == 2
    assert fetch("--upgrade", "sql") == 2
    assert fetch("--upgrade") == 0
    assert Path("set.lock.yaml").read_text() == good


@pytest.mark.parametrize("argv", [[], ["--upgrade"], ["--locked"]])
def test_what_is_no_lock_is_never_written_over(argv: list[str], hub: Hub) -> None:
    Path("set.lock.yaml").write_text("mine: 1\n")
    assert fetch(*argv) == 2
    assert Path("set.lock.yaml").read_text() == "mine: 1\n"
    assert hub.count() == 0
    Path("set.lock.yaml").write_text("")
    assert fetch("--upgrade") == 0
    assert locked("sql").files


def test_pickled_weights_that_are_locked_need_the_permission_again(hub: Hub, capsys: Capture) -> None:
    hub.add("org/old", {CONFIG: {"r": 1}, "adapter_model.bin": b"\x80\x02."})
    set_of("old=org/old")
    assert fetch("--allow-pickle") == 0
    assert fetch("--locked") == 1
    assert "--allow-pickle" in capsys.readouterr().err
    assert fetch("--locked", "--allow-pickle") == 0


def test_a_lock_that_cannot_be_written_is_said_before_anything_is_fetched(hub: Hub, capsys: Capture) -> None:
    Path("set.lock.yaml").symlink_to("no/such/folder/set.lock.yaml")
    assert fetch() == 6
    assert "--locked" in capsys.readouterr().err
    assert hub.count() == 0


@pytest.mark.parametrize(
    "argv",
    [
        ["-f", "set.yaml", "--locked", "--upgrade"],
        ["-f", "set.yaml", "--check", "--locked"],
        ["-f", "set.yaml", "--upgrade", "sq"],
        ["-f", "set.yaml", "--locked", "--include", "*"],
        ["-f", "set.yaml", "org/sql"],
        ["-f", "set.yaml", "--shard", "2/2"],
        ["-f", "set.yaml", "--shard", "0/0"],
        ["-f", "set.yaml", "--shard", "one"],
        ["org/sql", "--locked"],
        ["org/sql", "--check"],
        ["org/sql", "--upgrade"],
    ],
)
def test_what_makes_no_sense_is_exit_2_and_asks_nobody(argv: list[str], hub: Hub, capsys: Capture) -> None:
    Path("set.lock.yaml").write_text(dump_lock({}))
    assert main(["fetch", *argv]) == 2
    assert capsys.readouterr().out == ""
    assert hub.count() == 0
