"""The downloader and its machine: disks that are full or refuse, and few descriptors."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.errors import Corrupt, Unreachable
from tests.fetching.downloading import MIB, WEIGHTS, downloaded, partials
from tests.fetching.scripted import Scripted


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
