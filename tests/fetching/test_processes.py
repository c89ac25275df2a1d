"""Whole processes: killed at any moment, many at once, and in a cache that may only be read."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli.store import Store
from lora_cli.store.gc import Retention, collect
from lora_cli.store.inventory import inventory
from lora_cli.store.verify import verify
from tests.hub_server import Hub
from tests.making import write_adapter
from tests.store.keeping import tree

pytestmark = pytest.mark.slow

MIB = 1 << 20
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


def fetching(hub: Hub, cache: Path, *words: str, **variables: str) -> "subprocess.Popen[str]":
    """A ``lora-cli fetch`` that has just been started."""
    command = [sys.executable, "-m", "lora_cli", "fetch", "--cache-dir", str(cache), *words]
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, **variables}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def fetched(hub: Hub, cache: Path, *words: str) -> Path:
    """The directory that it prints, when it ends well."""
    process = fetching(hub, cache, *words)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    (line,) = out.splitlines()
    return Path(line)


def partial_bytes(cache: Path) -> int:
    """Bytes of the longest partial download there."""
    sizes = []
    for path in (cache / "tmp").rglob("*"):
        try:
            sizes.append(path.stat().st_size if path.is_file() else 0)
        except FileNotFoundError:
            continue
    return max(sizes, default=0)


def test_a_killed_fetch_is_gone_on_with_by_the_next_process(hub: Hub, tmp_path: Path) -> None:
    weights = os.urandom(20 * MIB)
    hub.add("org/sql", {CONFIG: {}, WEIGHTS: weights})
    hub.fault("GET cdn", stall_at=3 * MIB, times=-1)
    process = fetching(hub, tmp_path, "org/sql")
    deadline = time.monotonic() + 60
    while partial_bytes(tmp_path) < 3 * MIB and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    here = partial_bytes(tmp_path)
    assert here == 3 * MIB
    hub.faults.clear()
    hub.requests.clear()
    assert (fetched(hub, tmp_path, "org/sql") / WEIGHTS).read_bytes() == weights
    starts = [int(r.range.removeprefix("bytes=").partition("-")[0]) for r in hub.requests if r.origin == "cdn"]
    assert min(starts) == here
    assert partial_bytes(tmp_path) == 0


def kill_at_random_moments(hub: Hub, cache: Path, kills: int, seed: int) -> None:
    """Kills fetch after fetch, and looks at every byte in the cache after each; then lets one end."""
    chance = random.Random(seed)
    store = Store(cache)
    number, gone_on, promised = 0, 0, {}
    hub.fault("GET cdn", stall_at=MIB, stall_s=0.3, times=-1)
    for _ in range(kills):
        name = f"org/a{number}"
        if name not in promised:
            promised[name] = os.urandom(6 * MIB)
            hub.add(name, {CONFIG: {"n": number}, WEIGHTS: promised[name]})
        before = partial_bytes(cache)
        asked = len(hub.requests)
        process = fetching(hub, cache, name, LORA_CLI_JOBS="2")
        while len(hub.requests) == asked and process.poll() is None:
            time.sleep(0.01)
        try:
            process.wait(chance.uniform(0, 0.5))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not any(one.problem for one in verify(store))
        for item in inventory(store):
            assert item.files.keys() == {CONFIG, WEIGHTS}
        gone_on += 0 < before <= partial_bytes(cache)
        number += process.returncode == 0
    hub.faults.clear()
    for name, data in promised.items():
        assert (fetched(hub, cache, name) / WEIGHTS).read_bytes() == data
    assert not any(one.problem for one in verify(store))
    assert partial_bytes(cache) == 0
    for path in store.partials.iterdir():
        os.utime(path, (1, 1))
    collect(store, Retention())
    assert {path.partition("/")[0] for path in tree(cache)} == {"blobs", "refs", "snapshots"}
    assert gone_on or kills < 20


def test_kills_at_random_moments_leave_no_wrong_byte(hub: Hub, tmp_path: Path) -> None:
    kill_at_random_moments(hub, tmp_path, kills=8, seed=random.randrange(1 << 30))


@pytest.mark.slow
def test_fifty_kills_at_random_moments_leave_no_wrong_byte(hub: Hub, tmp_path: Path) -> None:
    kill_at_random_moments(hub, tmp_path, kills=50, seed=random.randrange(1 << 30))


def test_eight_processes_at_once_all_succeed_and_download_once(hub: Hub, tmp_path: Path) -> None:
    weights = os.urandom(10 * MIB)
    hub.add("org/sql", {CONFIG: {}, WEIGHTS: weights, "README.md": "read"})
    hub.fault("GET cdn", delay_s=0.5, times=-1)
    processes = [fetching(hub, tmp_path, "org/sql") for _ in range(8)]
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, said
    assert len({out for out, _ in said}) == 1
    ranges = [request.range for request in hub.requests if request.origin == "cdn"]
    spans = sorted(tuple(map(int, span.removeprefix("bytes=").split("-"))) for span in ranges)
    assert [start for start, _ in spans] == [0, *(last + 1 for _, last in spans[:-1])]
    assert spans[-1][1] == 10 * MIB - 1
    assert sum(CONFIG in request.target for request in hub.requests) == 1
    assert not any(one.problem for one in verify(Store(tmp_path)))
    assert list((tmp_path / "tmp").iterdir()) == []
    assert list((tmp_path / "locks").iterdir()) == []


def test_when_the_one_that_downloads_is_killed_another_goes_on(hub: Hub, tmp_path: Path) -> None:
    weights = os.urandom(4 * MIB)
    hub.add("org/sql", {CONFIG: {}, WEIGHTS: weights})
    hub.fault("GET cdn", stall_at=2 * MIB, times=1)
    first = fetching(hub, tmp_path, "org/sql")
    deadline = time.monotonic() + 60
    while partial_bytes(tmp_path) < 2 * MIB and time.monotonic() < deadline:
        time.sleep(0.01)
    second = fetching(hub, tmp_path, "org/sql")
    assert second.stderr is not None
    assert "waiting for another process" in second.stderr.readline()
    first.kill()
    first.communicate()
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert (Path(out.strip()) / WEIGHTS).read_bytes() == weights
    starts = [request.range for request in hub.requests if request.origin == "cdn"]
    assert starts == [f"bytes=0-{4 * MIB - 1}", f"bytes={2 * MIB}-{4 * MIB - 1}"]


@pytest.fixture
def public(tmp_path: Path) -> Iterator[Path]:
    """A folder that every user of this machine can reach, as far as this one's rights go."""
    folder = Path(tempfile.mkdtemp(prefix="lora-cli-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)
        shutil.rmtree(folder)


SET = """apiVersion: lora-cli/v1
kind: AdapterSet
adapters:
  - {name: sql, source: org/sql}
"""

AS_ANOTHER_USER = """
import os, sys
from lora_cli.cli.main import main
rehearsal, *words = sys.argv[1:]
# The modules are imported while this user can still reach them.
assert main(["fetch", "--cache-dir", rehearsal, *[word for word in words if word != "--offline"]]) == 0
sys.stdout.flush()
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
print("---", flush=True)
sys.exit(main(["fetch", *words]))
"""


def fetched_without_rights(hub: Hub, cache: Path, rehearsal: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """What ``fetch`` says where it may only read: as another user when this one is root, else with the rights taken."""
    if os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "a-w", str(cache)], check=True)
    command = [sys.executable, "-c", AS_ANOTHER_USER, str(rehearsal), *words]
    nowhere = dict.fromkeys(("HOME", "HF_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), "/nonexistent")
    environment = os.environ | nowhere | {"HF_ENDPOINT": hub.endpoint, "LORA_CLI_CACHE_DIR": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    done.stdout = done.stdout.partition("---\n")[2]
    return done


def state_of(folder: Path) -> list[tuple[str, int, int]]:
    """Every path below it, with its size and the time of its last change."""
    return sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in (folder, *folder.rglob("*")))


@pytest.mark.parametrize(
    "words", [["org/sql"], ["org/sql@COMMIT"], ["org/sql", "--offline"], ["ADAPTER"], ["-f", "SET"]]
)
def test_a_full_cache_that_may_only_be_read_serves(hub: Hub, public: Path, tmp_path: Path, words: list[str]) -> None:
    commit = hub.add("org/sql", {CONFIG: {}, WEIGHTS: b"weights"})
    adapter = write_adapter(public / "adapter")
    manifest = public / "set.yaml"
    manifest.write_text(SET)
    meant = {"ADAPTER": str(adapter), "COMMIT": commit, "SET": str(manifest)}
    words = [re.sub("|".join(meant), lambda found: meant[found[0]], word) for word in words]
    cache = public / "cache"
    directory = fetched(hub, cache, *[word for word in words if word != "--offline"])
    before = state_of(cache)
    done = fetched_without_rights(hub, cache, tmp_path / "rehearsal", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{directory}\n"
    assert state_of(cache) == before


def test_what_is_missing_in_a_cache_that_may_only_be_read_is_exit_6(hub: Hub, public: Path, tmp_path: Path) -> None:
    hub.add("org/sql", {CONFIG: {}, WEIGHTS: b"weights"})
    cache = public / "cache"
    (cache / "tmp").mkdir(parents=True)
    done = fetched_without_rights(hub, cache, tmp_path / "rehearsal", "org/sql")
    assert done.returncode == 6
    assert done.stdout == ""
    assert "Permission denied" in done.stderr
    assert "uid 65534" in done.stderr or os.geteuid() != 0
    assert "--cache-dir" in done.stderr
    assert tree(cache) == set()
