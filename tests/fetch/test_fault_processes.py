"""Whole processes at object stores and web servers: killed, many at once, and with no room for what they write."""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from tests.fetch.places import MIB, Place, check_cache, partial_bytes, place_of


@pytest.fixture(params=["at_s3", "at_https"])
def place(request: pytest.FixtureRequest) -> Place:
    """Those whose bytes come by other ways than the Hub's."""
    return place_of(request)


def fetching(place: Place, *, largest: int | None = None) -> "subprocess.Popen[str]":
    """A ``lora-cli fetch`` that has just been started, whose files may have so many bytes."""
    command = [sys.executable, "-m", "lora_cli", "fetch", "--cache-dir", str(place.cache), str(place.ref)]

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
    while partial_bytes(place.cache) < MIB * 3 // 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    check_cache(place.cache, whole=False)
    place.recovers(resumed=True)


def test_no_room_for_a_file_is_exit_6(place: Place) -> None:
    process = fetching(place, largest=MIB)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 6, err
    assert "File too large" in err
    check_cache(place.cache, whole=False)
    place.recovers()


@pytest.mark.parametrize("processes", [6, pytest.param(16, marks=pytest.mark.long)])
def test_many_at_once_all_succeed_and_download_once(place: Place, processes: int) -> None:
    place.proxy.fault(place.weights, before=lambda: time.sleep(1), times=-1)
    running = [fetching(place) for _ in range(processes)]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * processes, said
    assert len({out for out, _ in said}) == 1
    assert len(place.starts()) == 1
    check_cache(place.cache, whole=True)
