"""Whole processes at object stores and web servers: killed, many at once, and with no room for what they write."""

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fetching.places import MIB, WEIGHTS, Place, check_cache, partial_bytes, place_of
from tests.fetching.test_failures import own_disk
from tests.fetching.test_processes import public, state_of

pytestmark = pytest.mark.slow

__all__ = ["public"]


@pytest.fixture(params=["at_s3", "at_gs", "at_https"])
def place(request: pytest.FixtureRequest) -> Place:
    """Those whose bytes come by other ways than the Hub's."""
    return place_of(request)


def fetching(
    place: Place, *, largest: int | None = None, before: Sequence[str] = (), cache: Path | None = None
) -> "subprocess.Popen[str]":
    """A ``lora-cli fetch`` that has just been started, ``before`` it another command; its files may be so large."""
    here = ["fetch", "--cache-dir", str(cache or place.cache), str(place.ref)]
    command = [*before, sys.executable, "-m", "lora_cli", *here]

    def limit() -> None:
        if largest is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    environment = os.environ | place.environ | {"LORA_CLI_KEEP_FREE": "0"}
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,  # noqa: PLW1509 - nothing else runs between
    )


def test_a_killed_fetch_is_gone_on_with(place: Place) -> None:
    place.proxy.fault(place.weights, stall_at=MIB * 3 // 2, times=-1)
    process = fetching(place)
    deadline = time.monotonic() + 30
    while partial_bytes(place.cache) < MIB and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    check_cache(place.cache, whole=False)
    place.recovers(resumed=True)


def test_no_room_for_a_file_is_exit_6(place: Place) -> None:
    process = fetching(place, largest=MIB)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 6, err
    assert f"writing sql: {WEIGHTS} to {place.cache}: File too large" in err
    check_cache(place.cache, whole=False)
    place.recovers()


def test_a_disk_that_is_too_small_is_exit_6_before_a_byte(place: Place, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    before = own_disk("size=2m", tmp_path / "small")
    _, err = (process := fetching(place, before=before, cache=tmp_path / "small")).communicate(timeout=60)
    assert process.returncode == 6, err
    assert " needed, " in err
    assert place.starts() == []


def killed_at_random_moments(place: Place, kills: int) -> None:
    """Kills fetch after fetch, looks at every byte in the cache after each, and lets one end."""
    chance = random.Random()
    place.proxy.fault(place.weights, drip_s=0.0001, times=-1)
    for _ in range(kills):
        process = fetching(place)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.2, 1.5))
        process.kill()
        process.communicate()
        check_cache(place.cache, whole=False)
    place.recovers()


def test_kills_at_random_moments_leave_no_wrong_byte(place: Place) -> None:
    killed_at_random_moments(place, 2)


@pytest.mark.slow
def test_thirty_kills_at_random_moments_leave_no_wrong_byte(place: Place) -> None:
    killed_at_random_moments(place, 30)


AS_NOBODY = """
import os, sys
from lora_cli.cli.main import main
cache, rehearsal, ref = sys.argv[1:]
# The modules are imported while this user can still reach them.
assert main(["fetch", "--cache-dir", rehearsal, ref]) == 0
sys.stdout.flush()
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.exit(main(["fetch", "--cache-dir", cache, ref]))
"""


@pytest.mark.parametrize("place", ["at_s3", "at_gs"], indirect=True)
def test_a_full_cache_that_may_only_be_read_serves(place: Place, public: Path, tmp_path: Path) -> None:
    cache = public / "cache"
    out, err = (process := fetching(place, cache=cache)).communicate(timeout=60)
    assert process.returncode == 0, err
    subprocess.run(["chmod", "-R", "a-w", str(cache)], check=True)
    state = state_of(cache)
    command = [sys.executable, "-c", AS_NOBODY, str(cache), str(tmp_path / "rehearsal"), str(place.ref)]
    done = subprocess.run(command, env=os.environ | place.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == out.strip()
    assert state_of(cache) == state


@pytest.mark.parametrize("place", ["at_s3", "at_https"], indirect=True)
@pytest.mark.parametrize("processes", [4, pytest.param(16, marks=pytest.mark.slow)])
def test_many_at_once_all_succeed_and_download_once(place: Place, processes: int) -> None:
    place.proxy.fault(place.weights, before=lambda: time.sleep(1), times=-1)
    running = [fetching(place) for _ in range(processes)]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * processes, said
    assert len({out for out, _ in said}) == 1
    assert len(place.starts()) == 1
    check_cache(place.cache, whole=True)
