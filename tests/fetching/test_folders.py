"""Folders in the cache: copied once, and an edit in place, of theirs or ours, is noticed."""

import os
from pathlib import Path

import pytest

from lora_cli.errors import FormatError
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
