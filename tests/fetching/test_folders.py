"""Folders in the cache: copied once, and an edit in place, of theirs or ours, is noticed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli.core.lock import LockedAdapter
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import FormatError
from lora_cli.fetching.locked_files import check_folder
from lora_cli.sources.local import LocalSource
from lora_cli.store.verify import verify
from tests.fetching.desk import FILES, WEIGHTS, Desk
from tests.making import write_adapter
from tests.store.keeping import edit_in_place


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


def test_a_folder_is_copied_in_and_read_no_second_time(desk: Desk, adapter: Path) -> None:
    found = desk.bring(str(adapter))
    assert not found.cached
    assert (found.snapshot.directory / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()
    assert not (found.snapshot.directory / WEIGHTS).samefile(adapter / WEIGHTS)
    assert desk.bring(str(adapter)).cached


class Unread(LocalSource):
    """A folder of which no byte may be read."""

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        raise AssertionError(f"{file.path} is read")


def test_a_folder_that_was_fetched_is_compared_with_its_lock_and_not_read_again(desk: Desk, adapter: Path) -> None:
    found = desk.bring(str(adapter))
    source = Unread(desk.settings)
    revision = source.resolve(AdapterRef("file", str(adapter)))
    locked = LockedAdapter("sql", "./adapter", "", found.snapshot.files)

    check_folder(desk.store, revision, revision.files, locked, source)

    os.utime(adapter / WEIGHTS)
    revision = source.resolve(AdapterRef("file", str(adapter)))
    with pytest.raises(AssertionError, match=WEIGHTS):
        check_folder(desk.store, revision, revision.files, locked, source)
    # A fetch that finds the same bytes notes their new times.
    assert desk.bring(str(adapter), locked=locked).cached
    check_folder(desk.store, revision, revision.files, locked, source)


def test_an_edit_in_place_of_a_folder_makes_a_new_snapshot_and_leaves_the_old_one(desk: Desk, adapter: Path) -> None:
    first = desk.bring(str(adapter))
    weights = (adapter / WEIGHTS).read_bytes()
    edit_in_place(adapter / WEIGHTS, at=len(weights) - 1)
    second = desk.bring(str(adapter))
    assert second.snapshot.digest != first.snapshot.digest
    assert (first.snapshot.directory / WEIGHTS).read_bytes() == weights
    assert (second.snapshot.directory / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()


def test_an_edit_in_place_of_the_cache_is_noticed_and_mended(desk: Desk) -> None:
    found = desk.bring("org/sql")
    edit_in_place(found.snapshot.directory / WEIGHTS)
    again = desk.bring(f"org/sql@{found.revision}")
    assert not again.cached
    assert (again.snapshot.directory / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert not any(one.problem for one in verify(desk.store))


def test_a_folder_with_a_fifo_for_weights_is_refused_at_once(desk: Desk, adapter: Path) -> None:
    (adapter / WEIGHTS).unlink()
    os.mkfifo(adapter / WEIGHTS)
    with pytest.raises(FormatError, match="is a FIFO"):
        desk.bring(str(adapter))


def test_a_link_that_leads_out_of_a_folder_is_refused(desk: Desk, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (adapter / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(FormatError, match="outside its folder"):
        desk.bring(str(adapter))
    assert not desk.store.snapshots.exists()
