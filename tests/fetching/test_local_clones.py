"""Folders on this machine: shared with the cache where the file system can, linked only when that is said."""

import errno
import fcntl
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from lora_cli.cli.main import main
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import Corrupt
from lora_cli.fetching.pipeline import Fetched
from lora_cli.settings import Settings
from lora_cli.sources import LocalFileSource
from lora_cli.sources.local import LocalSource
from lora_cli.store import Store
from lora_cli.store.blobs import BLOB_MTIME_NS
from lora_cli.store.disk import reflink
from lora_cli.store.export import write_view
from lora_cli.store.garbage_collection import Retention, collect, remove
from lora_cli.store.inventory import inventory, view_digests
from lora_cli.store.verify import verify
from tests.bringing import bring
from tests.making import write_adapter
from tests.store.keeping import tree

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Unread(LocalSource):
    """A folder whose bytes nobody may ask for."""

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        raise AssertionError(file.path)


def brought(folder: Path, cache: Path, *, link: bool = False, source: LocalSource | None = None) -> Fetched:
    settings = Settings(cache, retries=0)
    return bring(AdapterRef("file", str(folder)), source or LocalSource(), Store(cache), settings, link=link)


def edit(path: Path, *, times: bool = False) -> None:
    """Changes the last byte in place; with ``times`` as if it had never happened."""
    status = path.stat()
    with path.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        (last,) = stream.read(1)
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([last ^ 0xFF]))
    if times:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def state(path: Path) -> tuple[int, int, int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system only")
    folder = Path(tempfile.mkdtemp(dir=shared))
    yield folder
    shutil.rmtree(folder)


def test_only_a_folder_is_near() -> None:
    assert isinstance(LocalSource(), LocalFileSource)


def test_what_cannot_be_shared_is_copied(adapter: Path, elsewhere: Path) -> None:
    with (adapter / WEIGHTS).open("rb") as source, (elsewhere / "target").open("wb") as target:
        assert not reflink(source.fileno(), target.fileno())
    found = brought(adapter, elsewhere / "cache").snapshot.directory
    assert (found / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY])
def test_whatever_says_that_it_cannot_be_shared_the_copy_is_made(
    adapter: Path, store: Store, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    found = brought(adapter, store.root).snapshot.directory
    assert (found / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()


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
            edit(adapter / WEIGHTS)
        os.copy_file_range(source, target, os.fstat(source).st_size, 0, 0)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", share)
    with pytest.raises(Corrupt, match="changed while it was read"):
        brought(adapter, store.root)
    assert not store.snapshots.exists()


def test_on_a_file_system_that_shares_nothing_is_read_twice(tmp_path: Path) -> None:
    mkfs = shutil.which("mkfs.btrfs")
    image, mounted = tmp_path / "image", tmp_path / "mounted"
    mounted.mkdir()
    with image.open("wb") as stream:
        stream.truncate(200 << 20)
    if not mkfs or subprocess.run([mkfs, "-q", str(image)], check=False).returncode:
        pytest.skip("there is no mkfs.btrfs")
    if subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        adapter = write_adapter(mounted / "adapter")
        found = brought(adapter, mounted / "cache", source=Unread()).snapshot.directory
        assert (found / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()
        edit(adapter / WEIGHTS)
        assert (found / WEIGHTS).read_bytes() != (adapter / WEIGHTS).read_bytes()
        assert not any(one.problem for one in verify(Store(mounted / "cache")))
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_without_link_nothing_of_somebody_is_linked_and_the_folder_is_listed_once(
    adapter: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = Mock(side_effect=(source := LocalSource()).resolve)
    monkeypatch.setattr(source, "resolve", resolve)
    found = brought(adapter, store.root, source=source).snapshot.directory
    assert not any((found / path).samefile(adapter / path) for path in (CONFIG, WEIGHTS))
    resolve.assert_called_once()


def test_with_link_weights_are_the_very_inode_and_it_stays_as_it_was(adapter: Path, store: Store) -> None:
    before = state(adapter / WEIGHTS)
    found = brought(adapter, store.root, link=True).snapshot
    assert (found.directory / WEIGHTS).samefile(adapter / WEIGHTS)
    assert store.blob(found.files[WEIGHTS].sha256).samefile(adapter / WEIGHTS)
    assert not (found.directory / CONFIG).samefile(adapter / CONFIG)
    assert not any(one.problem for one in verify(store))
    assert state(adapter / WEIGHTS) == before
    assert before[4] != BLOB_MTIME_NS
    assert not list(store.partials.iterdir())


def test_a_linked_folder_is_cached_the_next_time_and_under_the_same_revision(adapter: Path, store: Store) -> None:
    first = brought(adapter, store.root, link=True)
    for link in (True, False):
        again = brought(adapter, store.root, link=link, source=Unread())
        assert (again.cached, again.revision, again.snapshot) == (True, first.revision, first.snapshot)


@pytest.mark.parametrize("times", [False, True])
def test_an_edit_of_a_linked_file_is_noticed_and_verify_puts_it_aside(adapter: Path, store: Store, times: bool) -> None:
    snapshot = brought(adapter, store.root, link=True).snapshot
    view = write_view(store, "sql", snapshot)
    edit(adapter / WEIGHTS, times=times)
    rotten = [one for one in verify(store) if one.problem]
    assert [one.kind for one in rotten] == ["blob", "snapshot", "view"]
    assert not snapshot.directory.exists()
    assert not view.exists()
    assert (adapter / WEIGHTS).exists()
    again = brought(adapter, store.root, link=True)
    assert not again.cached
    assert again.snapshot.digest != snapshot.digest
    assert not any(one.problem for one in verify(store))


def test_a_view_of_a_linked_file_is_known_by_its_bytes_through_edits(adapter: Path, store: Store) -> None:
    for _ in range(3):
        snapshot = brought(adapter, store.root, link=True).snapshot
        write_view(store, "sql", snapshot)
        assert view_digests(store) == {"sql": snapshot.digest}
        edit(adapter / WEIGHTS)


def test_what_was_edited_is_never_given_as_what_it_was(adapter: Path, tmp_path: Path, store: Store) -> None:
    copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
    linked = brought(adapter, store.root, link=True).snapshot
    edit(adapter / WEIGHTS)
    found = brought(copy, store.root).snapshot
    assert found.digest == linked.digest
    assert (found.directory / WEIGHTS).read_bytes() == (copy / WEIGHTS).read_bytes()
    assert not (found.directory / WEIGHTS).samefile(adapter / WEIGHTS)


def test_a_linked_file_that_was_only_touched_is_hashed_once_and_never_touched_by_us(
    adapter: Path, tmp_path: Path, store: Store
) -> None:
    linked = brought(adapter, store.root, link=True).snapshot
    os.utime(adapter / WEIGHTS, ns=(7, 7 * 10**9))
    before = state(adapter / WEIGHTS)
    for _ in range(2):
        assert brought(adapter, store.root).snapshot == linked
    assert state(adapter / WEIGHTS) == before


def test_a_link_in_a_folder_leads_to_the_file_that_is_linked(adapter: Path, store: Store) -> None:
    (adapter / WEIGHTS).rename(adapter / "real")
    (adapter / WEIGHTS).symlink_to("real")
    found = brought(adapter, store.root, link=True).snapshot.directory
    assert not (found / WEIGHTS).is_symlink()
    assert (found / WEIGHTS).samefile(adapter / "real")


def test_bytes_that_are_here_already_are_not_linked_again(adapter: Path, tmp_path: Path, store: Store) -> None:
    copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
    own = brought(copy, store.root).snapshot
    found = brought(adapter, store.root, link=True).snapshot
    assert found == own
    assert not (found.directory / WEIGHTS).samefile(adapter / WEIGHTS)
    assert not store.links.exists()


def test_removing_leaves_the_file_of_somebody_and_no_mark(adapter: Path, store: Store) -> None:
    brought(adapter, store.root, link=True)
    before = state(adapter / WEIGHTS)
    assert collect(store, Retention(grace_s=-1)) == []
    remove(store, inventory(store))
    assert tree(store.root) == set()
    assert state(adapter / WEIGHTS) == before


def test_across_file_systems_it_is_copied_and_the_log_says_so(
    adapter: Path, elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "lora_cli"):
        found = brought(adapter, elsewhere / "cache", link=True).snapshot.directory
    assert (found / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()
    assert not Store(elsewhere / "cache").links.exists()
    (said,) = [record.getMessage() for record in caplog.records]
    assert WEIGHTS in said
    assert "it is copied" in said


@pytest.mark.parametrize(("words", "told"), [(["--verbose"], True), ([], False)])
def test_the_command_links_and_says_with_verbose_what_it_copied(
    adapter: Path, tmp_path: Path, elsewhere: Path, words: list[str], told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", str(adapter), "--link", "--cache-dir", str(tmp_path / "cache")]) == 0
    assert (Path(capsys.readouterr().out.strip()) / WEIGHTS).samefile(adapter / WEIGHTS)
    try:
        assert main([*words, "fetch", str(adapter), "--link", "--cache-dir", str(elsewhere / "cache")]) == 0
    finally:
        logger = logging.getLogger("lora_cli")
        logger.handlers = []
        logger.setLevel(logging.NOTSET)
    assert ("it is copied" in capsys.readouterr().err) == told
