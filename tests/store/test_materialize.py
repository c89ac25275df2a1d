"""Folders that are handed out, beside what the command lines of ``--publish`` and ``--to`` show."""

import ctypes
from pathlib import Path

import pytest

from lora_cli.errors import UsageError
from lora_cli.store import Store
from lora_cli.store.materialize import MARK_FILE, materialize
from tests.store.keeping import CONFIG, NESTED, WEIGHTS, put_snapshot, tree


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "sql"


@pytest.mark.parametrize("publish", [False, True])
def test_it_has_linked_weights_and_copied_json_and_stays_as_it_is(store: Store, out: Path, publish: bool) -> None:
    snapshot = put_snapshot(store, NESTED)
    out.mkdir(parents=True)
    materialize(store, snapshot, out, publish=publish)
    assert tree(out) == NESTED.keys() | ({MARK_FILE} if publish else set())
    assert (out / WEIGHTS).samefile(snapshot.directory / WEIGHTS)
    inode = out.stat().st_ino
    materialize(store, snapshot, out, publish=publish)
    assert out.stat().st_ino == inode
    (out / CONFIG).write_bytes(b"[]")
    assert (snapshot.directory / CONFIG).read_bytes() == b"{}"


@pytest.mark.parametrize("there", ["more", WEIGHTS, "link"])
def test_to_replaces_nothing_of_others(store: Store, out: Path, there: str) -> None:
    snapshot = put_snapshot(store, NESTED)
    out.parent.mkdir()
    if there == "link":
        out.symlink_to(store.root)
    else:
        materialize(store, put_snapshot(store, {**NESTED, there: b"other"}), out)
    before = tree(out.parent)
    with pytest.raises(UsageError, match="exists, with other content"):
        materialize(store, snapshot, out)
    assert tree(out.parent) == before


def test_what_was_published_is_replaced_also_where_the_system_cannot_exchange_two_folders(
    store: Store, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        materialize(store, put_snapshot(store, {**NESTED, WEIGHTS: b"%d" % number}), out, publish=True)
        assert (out / WEIGHTS).read_bytes() == b"%d" % number
        if number:
            monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: None)
    assert [path.name for path in out.parent.iterdir()] == ["sql"]
