"""Whole processes on a bad day: stopped owners, full disks, and somebody who cleans all the while."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lora_cli.fetching.readers import RANGE
from lora_cli.store import Store
from lora_cli.store.verify import verify
from tests.fetching.places import partial_bytes
from tests.hub_server import Hub

pytestmark = pytest.mark.slow

MIB = 1 << 20
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

Process = subprocess.Popen[str]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


def started(hub: Hub, cache: Path, *words: str, before: Sequence[str] = (), lease: str = "10m") -> Process:
    """A ``lora-cli`` on that cache that has just been started, by the command ``before`` it if there is one."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "LORA_CLI_CACHE_DIR": str(cache),
        "LORA_CLI_KEEP_FREE": "0",
        "LORA_CLI_LEASE": lease,
    }
    return subprocess.Popen(
        [*before, sys.executable, "-m", "lora_cli", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: Process, timeout_s: float = 120) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


def until(happens: object, what: str) -> None:
    deadline = time.monotonic() + 60
    assert callable(happens)
    while not happens():
        assert time.monotonic() < deadline, f"never {what}"
        time.sleep(0.01)


def is_sound(cache: Path) -> bool:
    return not any(one.problem for one in verify(Store(cache)))


def at_once(hub: Hub, cache: Path, processes: int) -> None:
    weights = os.urandom(10 * MIB)
    hub.add("org/sql", {CONFIG: {}, WEIGHTS: weights})
    hub.fault("GET cdn", delay_s=0.3, times=-1)
    running = [started(hub, cache, "fetch", "org/sql") for _ in range(processes)]
    said = [ended(process) for process in running]
    assert [code for code, _, _ in said] == [0] * processes, said
    assert len({out for _, out, _ in said}) == 1
    ranges = [request.range for request in hub.requests if request.origin == "cdn"]
    assert len(ranges) == len(set(ranges)) == -(-len(weights) // RANGE)
    assert is_sound(cache)
    assert list((cache / "locks").iterdir()) == []


@pytest.mark.slow
def test_sixteen_processes_at_once_all_succeed_and_download_once(hub: Hub, tmp_path: Path) -> None:
    at_once(hub, tmp_path, 16)


def test_a_stopped_owner_is_waited_for_no_longer_than_a_lease(hub: Hub, tmp_path: Path) -> None:
    weights = os.urandom(4 * MIB)
    hub.add("org/sql", {CONFIG: {}, WEIGHTS: weights})
    hub.fault("GET cdn", stall_at=2 * MIB, stall_s=1, times=1)
    owner = started(hub, tmp_path, "fetch", "org/sql")
    until(lambda: partial_bytes(tmp_path) >= 2 * MIB, "began")
    owner.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    code, out, err = ended(started(hub, tmp_path, "fetch", "org/sql", lease="1s"))
    assert code == 0, err
    assert 1.0 < time.monotonic() - began < 20
    assert (Path(out.strip()) / WEIGHTS).read_bytes() == weights
    # It wakes up, finds all done, and says the same.
    owner.send_signal(signal.SIGCONT)
    assert ended(owner)[:2] == (0, out)
    assert is_sound(tmp_path)
    assert partial_bytes(tmp_path) == 0


def test_gc_all_the_while_takes_nothing_that_a_fetch_gave_out(hub: Hub, tmp_path: Path) -> None:
    names = [f"org/a{number}" for number in range(4)]
    for number, name in enumerate(names):
        hub.add(name, {CONFIG: {"n": number}, WEIGHTS: os.urandom(1000), "README.md": "the same in all"})
    removed = tmp_path.with_name(f"{tmp_path.name}.removed")
    with removed.open("w") as stream:
        cleaner = subprocess.Popen([sys.executable, "-c", CLEAN, str(tmp_path)], stdout=stream)
    commits = [f"{name}@{hub.commit(name).id}" for name in names]
    users = [
        subprocess.Popen(
            [sys.executable, "-c", USE, str(tmp_path), hub.endpoint, str(removed), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in (names, commits, [*commits, *names])
    ]
    said = [ended(process) for process in users]
    assert cleaner.poll() is None
    cleaner.terminate()
    cleaner.wait()
    assert [code for code, _, _ in said] == [0, 0, 0], said
    assert is_sound(tmp_path)


CLEAN = """
import sys, time
from pathlib import Path
from lora_cli.store import Store, gc
from lora_cli.store.gc import Retention, collect
def slow(function):
    return lambda *words: time.sleep(0.005) or function(*words)
# Time for the others after all was looked at, and before it goes.
gc.discard, gc.exclusive = slow(gc.discard), slow(gc.exclusive)
while True:
    for one in collect(Store(Path(sys.argv[1])), Retention(unused_for_s=0, grace_s=0)):
        if one.kind == "snapshot":
            print(one.name, flush=True)
"""

USE = """
import random, sys, time
from pathlib import Path
from lora_cli.core.reference import parse
from lora_cli.core.request import Request
from lora_cli.fetching.batch import fetch_all
from lora_cli.settings import Settings
from lora_cli.fetching.readers import RANGE
from lora_cli.store import Store
cache, endpoint, removed, *words = sys.argv[1:]
settings = Settings(Path(cache), hub_endpoint=endpoint, keep_free=0)
began, rounds = time.monotonic(), 0
# Each uses another one now and then, so that there is always one for the cleaner, and mostly one that is used.
while rounds < 12 or Path(removed).read_bytes().count(b"\\n") < 12:
    assert time.monotonic() < began + 60, "the cleaner was not at work"
    rounds += 1
    wanted = [Request(word, parse(word, is_path=lambda _: False)) for word in random.sample(words, 2)]
    for outcome in fetch_all(wanted, Store(Path(cache)), settings):
        assert outcome.fetched is not None, (outcome.error.message, outcome.error.hint)
        snapshot = outcome.fetched.snapshot
        handed = time.monotonic()
        while time.monotonic() < handed + 0.01:
            found = {path: (snapshot.directory / path).stat().st_size for path in snapshot.files}
            assert found == {path: blob.size for path, blob in snapshot.files.items()}, found
            time.sleep(0.001)
"""


def own_disk(options: str, cache: Path) -> list[str]:
    """A command before another one that gives it a small disk of its own at ``cache``; it goes with it."""
    script = f'mount -t tmpfs -o {options} none "$0" && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", script, str(cache)]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a disk of his own")
    return command


TWO_AND_A_LOOK = """
for name in a b; do ("$@" fetch org/$name; echo $name $?) & done; wait
find "$LORA_CLI_CACHE_DIR/tmp" -type f -size +0 | wc -l
"$@" cache verify >&2; echo verify $?
"$@" cache gc --max-bytes 0 >&2; rm -f "$LORA_CLI_CACHE_DIR"/tmp/*/*
"$@" fetch org/a || "$@" fetch org/b; echo again $?
"""


def test_two_that_fill_a_disk_together_leave_nothing_wrong_and_one_of_them_later_succeeds(
    hub: Hub, tmp_path: Path
) -> None:
    """Each of them fits alone, so no look beforehand tells.

    Whose weights were there in full before the disk was, has them kept for the next try; the other one has no room.
    """
    for name in "ab":
        hub.add(f"org/{name}", {CONFIG: {"name": name}, WEIGHTS: os.urandom(5 * MIB)})
    hub.fault("GET cdn", stall_at=MIB, stall_s=1.0, times=2)
    before = [*own_disk("size=8m", tmp_path), "sh", "-c", TWO_AND_A_LOOK, "sh"]
    code, out, err = ended(started(hub, tmp_path, before=before))
    assert code == 0, err
    lines = [line for line in out.splitlines() if not line.startswith("/")]
    first = dict(line.split() for line in lines if line[0] in "ab" and line.split()[0] in "ab")
    assert "6" in first.values(), (out, err)
    assert "No space left" in err
    assert "verify 0" in lines
    assert lines[-1] == "again 0", (out, err)


FILLED = """
cd "$LORA_CLI_CACHE_DIR"
"$@" fetch org/a org/b >&2; "$@" fetch -f MANIFEST >&2; rm -rf tmp locks
full() { n=0; while (: > x$n) 2>/dev/null; do n=$((n+1)); done; mkdir here 2>/dev/null && echo not full; }
full; "$@" cache rm org/a >&2; echo rm $?
full; "$@" cache gc --max-bytes 0 >&2; echo gc $?
ls snapshots/sha256 | wc -l
"""


def test_a_disk_without_room_for_one_more_folder_is_cleaned(hub: Hub, tmp_path: Path) -> None:
    for name in "ab":
        hub.add(f"org/{name}", {CONFIG: {"name": name}, WEIGHTS: name.encode()})
    cache, manifest = tmp_path / "cache", tmp_path / "set.yaml"
    cache.mkdir()
    manifest.write_text(
        "apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: [{name: a, source: hf://org/a}]\n", encoding="utf-8"
    )
    script = FILLED.replace("MANIFEST", str(manifest))
    before = [*own_disk("size=8m,nr_inodes=80", cache), "sh", "-c", script, "sh"]
    code, out, err = ended(started(hub, cache, before=before))
    assert (code, out.split()) == (0, ["rm", "0", "gc", "0", "0"]), err


def test_a_disk_without_inodes_is_exit_6_and_leaves_nothing_wrong(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/a", {f"adapter_model-{n:05}-of-00030.safetensors": b"x" for n in range(1, 31)} | {CONFIG: {}})
    script = '"$@" fetch org/a; echo $?; "$@" cache verify >&2; echo $?'
    before = [*own_disk("size=8m,nr_inodes=30", tmp_path), "sh", "-c", script, "sh"]
    code, out, err = ended(started(hub, tmp_path, before=before))
    assert (code, out) == (0, "6\n0\n"), err
    assert "No space left" in err
