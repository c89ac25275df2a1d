"""Folders on this machine: shared with the cache where the file system can, else copied, and never linked."""

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import Corrupt
from lora_cli.fetching.pipeline import Fetched
from lora_cli.settings import Settings
from lora_cli.sources.local import LocalSource
from lora_cli.store import Store
from lora_cli.store.verify import verify
from tests.bringing import bring
from tests.making import write_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Unread(LocalSource):
    """A folder whose bytes nobody may ask for."""

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        raise AssertionError(file.path)


def brought(folder: Path, cache: Path, *, source: LocalSource | None = None) -> Fetched:
    settings = Settings(cache, retries=0)
    return bring(AdapterRef("file", str(folder)), source or LocalSource(), Store(cache), settings)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_what_can_be_shared_is_never_read_through_the_source_and_hashed_all_the_same(
    adapter: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def share(target: int, request: int, source: int) -> int:
        assert request == 0x40049409
        assert os.copy_file_range(source, target, os.fstat(source).st_size, 0, 0) == os.fstat(source).st_size
        return 0

    monkeypatch.setattr(fcntl, "ioctl", share)
    found = brought(adapter, store.root, source=Unread()).snapshot
    for path in (CONFIG, WEIGHTS):
        assert (found.directory / path).read_bytes() == (adapter / path).read_bytes()
        assert not (found.directory / path).samefile(adapter / path)
    assert not any(one.problem for one in verify(store))


def test_a_file_that_changes_while_it_is_shared_is_not_taken(
    adapter: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def share(target: int, request: int, source: int) -> int:
        if os.fstat(source).st_ino == (adapter / WEIGHTS).stat().st_ino:
            (adapter / WEIGHTS).write_bytes(b"other")
        os.copy_file_range(source, target, os.fstat(source).st_size, 0, 0)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", share)
    with pytest.raises(Corrupt, match="changed while it was read"):
        brought(adapter, store.root)
    assert not store.snapshots.exists()


@pytest.mark.parametrize("number", [0, errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY])
def test_what_cannot_be_shared_is_copied_never_linked_and_the_folder_is_listed_once(
    adapter: Path, store: Store, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    if number:
        monkeypatch.setattr(fcntl, "ioctl", refuse)
    resolve = Mock(side_effect=(source := LocalSource()).resolve)
    monkeypatch.setattr(source, "resolve", resolve)
    found = brought(adapter, store.root, source=source).snapshot.directory
    for path in (CONFIG, WEIGHTS):
        assert (found / path).read_bytes() == (adapter / path).read_bytes()
        assert not (found / path).samefile(adapter / path)
    resolve.assert_called_once()
