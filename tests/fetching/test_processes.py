"""Whole processes: killed, stopped, many at once, and on a disk that is full or may only be read."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fetching.desk import CONFIG, MIB, WEIGHTS
from tests.fetching.places import Place, check_cache, partial_bytes
from tests.fetching.test_soak import MACHINE
from tests.hub_server import Hub
from tests.making import write_adapter
from tests.processes import wait

pytestmark = pytest.mark.slow

PROGRAM = (sys.executable, "-m", "lora_cli")


def started(cache: Path, command: Sequence[object], **environ: str) -> "subprocess.Popen[str]":
    """A process that has just been started, with that cache."""
    return subprocess.Popen(
        [*map(str, command)],
        env=os.environ | {"LORA_CLI_CACHE_DIR": str(cache), "LORA_CLI_KEEP_FREE": "0"} | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fetching(place: Place, *before: str, **environ: str) -> "subprocess.Popen[str]":
    return started(place.cache, [*before, *PROGRAM, "fetch", place.ref], **place.environ, **environ)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def own_disk(cache: Path, options: str, mount: str = 'mount -t tmpfs -o "$1" none "$0"') -> list[str]:
    """What stands before a command to give it a disk of its own at ``cache``, which goes with it."""
    command = ["unshare", "-rm", "sh", "-c", f'{mount} && shift && cd "$0" && exec "$@"', str(cache), options]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a disk of his own")
    return command


@pytest.mark.parametrize(
    ("place", "how"),
    [("hub", signal.SIGKILL), ("s3", signal.SIGKILL), ("https", signal.SIGKILL), ("hub", signal.SIGSTOP)],
    indirect=["place"],
)
def test_another_goes_on_for_one_that_was(place: Place, how: signal.Signals) -> None:
    """One that was killed is gone on for at once where it was; one that does nothing is waited for as long as said."""
    place.proxy.fault(place.weights, stall_at=MIB * 3 // 2, times=1)
    first = fetching(place, LORA_CLI_TIMEOUT="5s")
    wait(lambda: partial_bytes(place.cache) >= MIB, "the first bytes")
    first.send_signal(signal.SIGSTOP)
    second = fetching(place, LORA_CLI_LEASE="10m" if how == signal.SIGKILL else "1s")
    assert second.stderr is not None
    assert "waiting for another process" in second.stderr.readline()
    first.send_signal(how)
    partial = partial_bytes(place.cache)
    code, out, err = ended(second)
    assert code == 0, err
    check_cache(place.cache, whole=True)
    first.send_signal(signal.SIGCONT)
    if how == signal.SIGKILL:
        assert ended(first)[0] == -how
        assert place.starts() == [0, partial]
    else:
        assert ended(first)[:2] == (0, out)
    place.recovers()


@pytest.mark.parametrize("place", ["hub", "s3", "https"], indirect=True)
def test_many_at_once_on_two_machines_all_succeed_and_download_once(place: Place) -> None:
    place.proxy.fault(place.weights, before=lambda: time.sleep(1), times=-1)
    machine = () if subprocess.run([*MACHINE, "true"], capture_output=True, check=False).returncode else MACHINE
    running = [fetching(place, *machine * (number % 2)) for number in range(8)]
    said = [ended(process) for process in running]
    assert {code for code, _, _ in said} == {0}, said
    assert len({out for _, out, _ in said}) == 1
    assert place.starts() == [0]
    assert sum(CONFIG in asked.line and "bytes=0-0" not in asked.line for asked in place.front.asked) == 1
    check_cache(place.cache, whole=True)
    assert not [*(place.cache / "tmp").iterdir()]


FULL = {
    "too small": ("size=1m", '"$@" fetch org/a; echo $?', "6", " needed, "),
    "for a third one, but not for a budget of two": (
        "size=5m",
        """"$@" fetch org/a org/b >&2; "$@" fetch org/c >&2; echo $?
        LORA_CLI_CACHE_BUDGET=5MiB "$@" fetch org/c >&2; echo $?""",
        "6 0",
        " needed, ",
    ),
    "filled meanwhile": (
        "size=3m",
        """("$@" fetch org/a; echo $?) & until find . -type f -size +500k | grep -q .; do sleep 0.05; done
        cat /dev/zero > zeros 2>/dev/null; wait; "$@" cache verify >&2; echo $?
        rm zeros; "$@" fetch org/a >&2; echo $?""",
        "6 0 0",
        "No space left",
    ),
    "no inode for one more folder": (
        "size=8m,nr_inodes=60",
        """"$@" fetch org/a org/b >&2; rm -rf tmp locks
        full() { n=0; while (: > x$n) 2>/dev/null; do n=$((n+1)); done; mkdir here 2>/dev/null && echo not full; }
        full; "$@" cache rm org/a >&2; echo $?; full; "$@" cache gc --max-bytes 0 >&2; echo $?; ls snapshots/sha256""",
        "0 0",
        "",
    ),
}
"""Disks: how they are mounted, what is done there, and what it says: exit codes on stdout, a message on stderr."""


@pytest.mark.parametrize("case", FULL)
def test_a_full_disk_is_exit_6_and_leaves_nothing_wrong(hub: Hub, tmp_path: Path, case: str) -> None:
    options, script, codes, said = FULL[case]
    for name in "abc":
        hub.add(f"org/{name}", {CONFIG: {"name": name}, WEIGHTS: os.urandom(2 * MIB)})
    hub.fault("GET cdn", stall_at=MIB * 3 // 2, stall_s=2, times=1)
    (cache := tmp_path / "cache").mkdir()
    disk = own_disk(cache, options) if options else []
    command = [*disk, "sh", "-c", script, "sh", *PROGRAM]
    code, out, err = ended(started(cache, command, HF_ENDPOINT=hub.endpoint))
    assert (code, out.split()) == (0, codes.split()), err
    assert said in err
    assert case != "too small" or not hub.count("GET cdn")


@pytest.mark.parametrize("is_mount", [True, False], ids=["a file system that may only be read", "no rights"])
def test_a_cache_that_may_only_be_read_serves_what_it_has(hub: Hub, tmp_path: Path, is_mount: bool) -> None:
    commit = hub.add("org/sql", {CONFIG: {}, WEIGHTS: b"weights"})
    hub.add("org/other", {CONFIG: {}, WEIGHTS: b"other weights"})
    adapter, manifest, cache = write_adapter(tmp_path / "adapter"), tmp_path / "set.yaml", tmp_path / "cache"
    manifest.write_text("apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: [{name: sql, source: org/sql}]\n")
    forms: list[list[object]]
    forms = [["org/sql"], [f"org/sql@{commit}"], [adapter], ["-f", manifest], ["org/sql", "--offline"]]
    paths = [ended(started(cache, [*PROGRAM, "fetch", *words], HF_ENDPOINT=hub.endpoint))[1] for words in forms]
    assert all(paths)
    if is_mount:
        before = own_disk(cache, "", 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"')
    else:
        subprocess.run(["chmod", "-R", "a-w", cache], check=True)
        before = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]
    for words, path in zip(forms, paths, strict=True):
        code, out, err = ended(started(cache, [*before, *PROGRAM, "fetch", *words], HF_ENDPOINT=hub.endpoint))
        assert (code, out) == (0, path), err
    code, out, err = ended(started(cache, [*before, *PROGRAM, "fetch", "org/other"], HF_ENDPOINT=hub.endpoint))
    assert (code, out) == (6, "")
    assert ("Read-only file system" if is_mount else "uid 65534") in err
    assert "--cache-dir" in err
