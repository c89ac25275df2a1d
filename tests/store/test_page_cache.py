"""What of a file is in memory, held against what was dropped from it and read into it."""

import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli.store import page_cache as module
from lora_cli.store.page_cache import by_cachestat, by_mincore, folder_residency, is_mincore_reliable, residency
from lora_cli.store.tmpfs_tier import MEMORY, file_system
from tests.store.another_user import as_another_user, public_folder
from tests.store.keeping import drop

PAGE = mmap.PAGESIZE
SIZE = 8 * (1 << 20) + 5
SHM = Path("/dev/shm")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the page cache of Linux is asked")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """8 MiB and 5 bytes on a disk, none of it in memory."""
    if file_system(tmp_path) in MEMORY:
        pytest.skip("nothing leaves memory on this file system")
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(SIZE))
    drop(path)
    return path


@pytest.fixture
def shm() -> Iterator[Path]:
    if file_system(SHM) != "tmpfs":
        pytest.skip("there is no tmpfs here")
    path = SHM / f"lora-cli-{os.getpid()}-{os.urandom(4).hex()}"
    yield path
    path.unlink(missing_ok=True)


def read(path: Path, start: int, length: int) -> None:
    """Reads these bytes and none ahead of them."""
    with path.open("rb", buffering=0) as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        assert len(os.pread(stream.fileno(), length, start)) == length


def test_what_was_dropped_is_not_there_and_what_is_read_is(file: Path) -> None:
    assert residency([file]).resident_bytes == 0
    read(file, 1 << 20, 3 * PAGE)
    assert residency([file]).resident_bytes == 3 * PAGE
    file.read_bytes()
    assert residency([file]) == module.Resident(SIZE, SIZE)
    drop(file)
    assert residency([file]).resident_bytes == 0


def test_both_system_calls_say_the_same(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WINDOW", 1 << 20)
    for pages in (0, 7, 300):
        if pages:
            read(file, SIZE - pages * PAGE, pages * PAGE)
        with file.open("rb") as stream:
            told = by_mincore(stream.fileno(), SIZE)
            assert told >= pages
            assert by_cachestat(stream.fileno()) in {told, None}


def test_a_folder_is_all_its_files(file: Path) -> None:
    (file.parent / "below").mkdir()
    other = file.parent / "below" / "config"
    other.write_bytes(b"{}")
    (file.parent / "empty").touch()
    assert folder_residency(file.parent) == module.Resident(SIZE + 2, 2)
    assert folder_residency(file.parent / "none") == module.Resident(0, 0)


def test_on_a_tmpfs_all_that_was_written_is_there(shm: Path) -> None:
    shm.write_bytes(bytes(SIZE))
    assert residency([shm]) == module.Resident(SIZE, SIZE)
    os.truncate(shm, 2 * SIZE)
    assert residency([shm]).resident_bytes in {SIZE, SIZE // PAGE * PAGE + PAGE}
    with shm.open("rb") as stream:
        assert by_mincore(stream.fileno(), 2 * SIZE) == -(-SIZE // PAGE)


def test_what_is_no_file_is_not_known(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/passwd")
    for name in ("fifo", "link", "gone"):
        assert residency([tmp_path / name]).resident_bytes is None


ASKS = """
from pathlib import Path
path = Path(sys.argv[1])
with path.open("rb") as stream:
    told = is_mincore_reliable(stream.fileno(), os.fstat(stream.fileno()))
    print(told, by_mincore(stream.fileno(), path.stat().st_size))
asked.by_cachestat = lambda _: None
print(asked.residency([path]).resident_bytes)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_what_the_kernel_hides_from_this_user_is_not_known() -> None:
    with public_folder() as folder:
        path = folder / "weights"
        path.write_bytes(bytes(SIZE))
        path.chmod(0o644)
        if file_system(folder) in MEMORY:
            pytest.skip("nothing leaves memory on this file system")
        drop(path)
        imports = "import ctypes, mmap, numpy\nimport lora_cli.store.page_cache as asked\n"
        imports += "from lora_cli.store.page_cache import *\n"
        # mincore says that all of it is there, which is a lie.
        assert as_another_user(imports, ASKS, str(path)).split() == ["False", str(-(-SIZE // PAGE)), "None"]
        path.chmod(0o666)
        assert as_another_user(imports, ASKS, str(path)).split() == ["True", "0", "0"]
        with path.open("rb") as stream:
            assert is_mincore_reliable(stream.fileno(), os.fstat(stream.fileno()))


@pytest.mark.parametrize(("uid", "reliable"), [(12345, True), (65534, False), (os.geteuid(), True)])
def test_who_may_change_any_file_is_told_of_all_but_those_of_unknown_users(
    uid: int, reliable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user namespace's files look like those of uid 65534: the capability does not count for them."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "_has_cap_fowner", lambda: True)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    status = os.stat_result((0o644, 1, 1, 1, uid, 0, 0, 0, 0, 0))
    with (tmp_path / "file").open("rb") as stream:
        assert is_mincore_reliable(stream.fileno(), status) is reliable


def test_a_path_that_is_not_there_yet_is_on_the_file_system_above_it(tmp_path: Path) -> None:
    assert file_system(tmp_path / "a" / "b") == file_system(tmp_path) != ""
    assert file_system(Path("/proc/self")) == "proc"
