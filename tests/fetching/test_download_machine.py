"""The downloader and its machine: disks that are too small, fill up or refuse, and few descriptors."""

import errno
import os
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.core.snapshot import RemoteFile
from lora_cli.errors import Corrupt, MachineError, Unreachable
from lora_cli.fetching import file_download as transfer_module
from lora_cli.fetching.download import download
from tests.fetching.downloading import MIB, WEIGHTS, context_of, downloaded, job_of, partials
from tests.fetching.scripted import Scripted


def test_a_disk_that_is_too_small_is_said_so_before_a_byte_is_read(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: b"x"})
    file = RemoteFile(WEIGHTS, 1 << 60)
    with (
        context_of(tmp_path / "cache", retries=0) as context,
        pytest.raises(MachineError, match=r"1048576\.0 TiB needed") as caught,
    ):
        download(job_of(source, context, file), context)
    assert "cache gc" in caught.value.hint
    assert source.reads == []


def test_a_disk_that_fills_up_is_cleaned_and_ends_with_what_to_do(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here; the limit of a file's size is tested below")
    try:
        source, others = Scripted({WEIGHTS: os.urandom(MIB), "adapter_config.json": b"{}"}), small / "others"

        def somebody_else_fills_it(*_: object) -> None:
            with suppress(OSError):
                others.write_bytes(bytes(2 * MIB))

        source.before = somebody_else_fills_it
        with pytest.raises(MachineError, match="No space left on device") as caught:
            downloaded(source, small)
        assert "cache gc" in caught.value.hint
        assert partials(small) == []
        others.unlink()
        assert downloaded(Scripted({WEIGHTS: os.urandom(MIB)}), small)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_the_cache_budget_makes_room_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    monkeypatch.setenv("LORA_CLI_KEEP_FREE", "1MiB")
    try:
        for number, budget in enumerate(("100MiB", "100MiB", "13MiB")):
            adapter = tmp_path / f"a{number}"
            adapter.mkdir()
            (adapter / "adapter_config.json").write_bytes(b"{}")
            (adapter / WEIGHTS).write_bytes(os.urandom(6 * MIB))
            monkeypatch.setenv("LORA_CLI_CACHE_BUDGET", budget)
            assert main(["--cache-dir", str(small), "fetch", str(adapter)]) == 0
    finally:
        subprocess.run(["umount", str(small)], check=True)


FETCH_WITH_A_LIMIT = """
import resource, sys
from lora_cli.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
sys.exit(main(sys.argv[1:]))
"""


def test_a_write_that_the_system_refuses_is_exit_6_and_leaves_nothing(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_bytes(b"{}")
    (adapter / WEIGHTS).write_bytes(os.urandom(3 * MIB))
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", FETCH_WITH_A_LIMIT, "fetch", "--cache-dir", str(cache), str(adapter)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert f"writing adapter: {WEIGHTS} to {cache}: File too large" in done.stderr
    assert "cache gc" in done.stderr
    assert done.stdout == ""
    assert partials(cache) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_two_hundred_files_do_not_need_two_hundred_descriptors(tmp_path: Path) -> None:
    source = Scripted({f"{number}.json": b"%d" % number for number in range(200)})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 32
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, open_now + 100), hard))
    try:
        assert downloaded(source, tmp_path) == dict(source.files)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    downloaded(Scripted({"a": bytes(MIB), "b": b""}), tmp_path)
    with pytest.raises(Corrupt):
        downloaded(Scripted({"a": b"12", "c": b"1"}, served={"a": b"21"}), tmp_path)
    source = Scripted({"a": bytes(5), "d": b"12"})
    source.before = lambda path, start: source.breaks.add(0)
    with pytest.raises(Unreachable):
        downloaded(source, tmp_path)
    assert count() == before


def test_what_is_written_is_given_to_the_disk_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(transfer_module, "FLUSHED_BYTES", MIB)
    monkeypatch.setattr(transfer_module, "flush", flushed.append)
    source = Scripted({WEIGHTS: os.urandom(12 * MIB)})
    assert downloaded(source, tmp_path) == dict(source.files)
    assert flushed


def test_a_disk_that_does_not_take_it_on_the_way_is_an_error_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(transfer_module, "FLUSHED_BYTES", 1000)
    monkeypatch.setattr(transfer_module, "flush", full)
    with pytest.raises(MachineError, match="Input/output error"):
        downloaded(Scripted({WEIGHTS: os.urandom(2 * MIB)}), tmp_path)
    assert not (tmp_path / "blobs").exists()
