"""``fetch --publish`` on full disks, killed, and two at once: readers see one adapter or the other, whole."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.cli.publishing import WEIGHTS, Capture, adapter, publish


@pytest.fixture(autouse=True)
def a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    adapter("sql")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the cache."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    assert folder.stat().st_dev != tmp_path.stat().st_dev
    yield folder
    shutil.rmtree(folder)


def test_on_another_file_system_weights_are_copied_once(elsewhere: Path) -> None:
    argv = ["fetch", "./sql", "--publish", str(elsewhere)]
    assert main(argv) == 0
    path = elsewhere / "sql" / WEIGHTS
    assert path.read_bytes() == Path("sql", WEIGHTS).read_bytes()
    before = path.stat().st_ino
    assert main(argv) == 0
    assert path.stat().st_ino == before
    adapter("sql", seed=2)
    assert main(argv) == 0
    assert path.read_bytes() == Path("sql", WEIGHTS).read_bytes()
    assert {entry.name for entry in elsewhere.iterdir()} == {"sql"}


def with_a_limit(size: int, argv: list[str]) -> "subprocess.CompletedProcess[str]":
    """A whole process that may write no file beyond ``size`` bytes: the kernel's answer is that of a full disk."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    command = [sys.executable, "-m", "lora_cli", *argv]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)


def test_a_full_disk_is_exit_6_and_leaves_what_was_there(elsewhere: Path) -> None:
    argv = ["fetch", "./sql", "--publish", str(elsewhere)]
    assert main(argv) == 0
    adapter("sql", seed=2)
    assert main(["fetch", "./sql"]) == 0
    before = (elsewhere / "sql" / WEIGHTS).read_bytes()
    done = with_a_limit(1000, argv)
    assert (done.returncode, done.stdout) == (6, ""), done.stderr
    assert "--publish" in done.stderr
    assert {entry.name for entry in elsewhere.iterdir()} == {"sql"}
    assert (elsewhere / "sql" / WEIGHTS).read_bytes() == before


def test_a_folder_that_cannot_be_written_is_exit_6(capsys: Capture) -> None:
    assert main(["fetch", "./sql", "--publish", "/proc/served"]) == 6
    assert "--publish" in capsys.readouterr().err


def test_an_empty_folder_that_was_there_stays_when_nothing_is_published() -> None:
    Path("served").mkdir()
    assert publish("./sql", "--base-name", "acme/other") == 1
    assert Path("served").is_dir()
    Path("served/sql").mkdir()
    assert publish("./sql") == 0


@pytest.mark.slow
def test_a_reader_sees_one_adapter_or_the_other_while_two_processes_publish() -> None:
    adapter("a/sql", seed=1)
    adapter("b/sql", seed=2)
    both = {Path(side, "sql", WEIGHTS).read_bytes() for side in "ab"}
    assert publish("a/sql") == 0
    wrong: list[object] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            try:
                folder = os.open("served/sql", os.O_RDONLY)
            except OSError as error:
                wrong.append(error)
                continue
            try:
                found = os.open(WEIGHTS, os.O_RDONLY, dir_fd=folder)
                if os.read(found, 1 << 20) not in both:
                    wrong.append("a mixture")
                os.close(found)
            except FileNotFoundError:
                pass  # It was replaced meanwhile, and is being removed.
            finally:
                os.close(folder)

    reader = threading.Thread(target=look)
    reader.start()
    loop = """
import sys
from lora_cli.cli.main import main
sys.exit(max(main(["fetch", "-q", adapter, "--publish", "served"]) for adapter in sys.argv[1:] * 15))
"""
    with (
        subprocess.Popen([sys.executable, "-c", loop, "a/sql", "b/sql"]) as one,
        subprocess.Popen([sys.executable, "-c", loop, "b/sql", "a/sql"]) as other,
    ):
        assert (one.wait(), other.wait()) == (0, 0)
    done.set()
    reader.join()
    assert wrong == []
    assert {path.name for path in Path("served").iterdir()} == {"sql"}


def test_a_kill_at_any_moment_leaves_the_one_or_the_other_whole(elsewhere: Path) -> None:
    whole = set()
    for side in "ab":
        folder = adapter(f"{side}/sql", seed=ord(side))
        (folder / "adapter_model.bin").write_bytes(side.encode() * 20_000_000)
        whole.add(((folder / WEIGHTS).read_bytes(), side.encode() * 20_000_000))
    argv = ["fetch", "-q", "--include", "*.bin", "--publish", str(elsewhere)]
    assert main([*argv, "a/sql"]) == main([*argv, "b/sql"]) == 0
    killed = 0
    for number in range(6):
        command = [sys.executable, "-m", "lora_cli", *argv, f"{'ab'[number % 2]}/sql"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            while not (half := [path for path in elsewhere.iterdir() if path.name != "sql"]) and process.poll() is None:
                time.sleep(0.002)
            time.sleep(number * 0.004)
            process.kill()
        killed += bool(half)
        found = elsewhere / "sql"
        assert ((found / WEIGHTS).read_bytes(), (found / "adapter_model.bin").read_bytes()) in whole
    assert killed
    assert main([*argv, "a/sql"]) == main([*argv, "b/sql"]) == 0
    assert {path.name for path in elsewhere.iterdir()} == {"sql"}
