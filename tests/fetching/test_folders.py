"""Folders on this machine: shared with the cache or copied, never linked."""

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from lora_cli.errors import Corrupt
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import RemoteFile, Revision
from lora_cli.settings import Settings
from lora_cli.sources.local import LocalSource
from lora_cli.store import Store
from tests.bringing import fetch
from tests.fetching.desk import CONFIG, WEIGHTS, Desk
from tests.making import write_adapter


class Unread(LocalSource):
    """A folder whose bytes nobody may ask for."""

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        raise AssertionError(file.path)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


def copied(adapter: Path, source: LocalSource) -> None:
    """A fetch of it has its bytes in files of its own."""
    settings = Settings(adapter.parent / "cache", retries=0)
    found = fetch(AdapterRef("file", str(adapter)), source, Store(settings.cache_dir), settings)
    for path in (CONFIG, WEIGHTS):
        assert (found.directory / path).read_bytes() == (adapter / path).read_bytes()
        assert not (found.directory / path).samefile(adapter / path)


@pytest.mark.parametrize("changes", [False, True])
def test_what_can_be_shared_is_never_read_through_the_source_and_hashed_all_the_same(
    desk: Desk, adapter: Path, changes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def share(target: int, request: int, source: int) -> int:
        assert request == 0x40049409
        if changes and os.fstat(source).st_ino == (adapter / WEIGHTS).stat().st_ino:
            (adapter / WEIGHTS).write_bytes(b"other")
        os.copy_file_range(source, target, os.fstat(source).st_size, 0, 0)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", share)
    if changes:
        with pytest.raises(Corrupt, match="changed while it was read"):
            copied(adapter, Unread())
        assert not desk.store.snapshots.exists()
    else:
        copied(adapter, Unread())
    assert desk.is_sound


def test_what_cannot_be_shared_is_copied_never_linked(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "ioctl", Mock(side_effect=OSError(errno.EOPNOTSUPP, "Operation not supported")))
    copied(adapter, LocalSource())
