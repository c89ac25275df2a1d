"""``fetch`` does not have the system clear pages for each piece that it receives."""

import resource
import subprocess
import sys

import pytest

ROUNDS, PIECES, PIECE = 50, 40, 256 * 1024
FAULTS = f"""
import resource, sys, threading

if sys.argv[1:]:
    from lora_cli.cli.fetch import _reuse_buffers
    _reuse_buffers()

def receive():
    for _ in range({ROUNDS}):
        waiting = [b"1" * {PIECE} for _ in range({PIECES})]

receive()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
    thread = threading.Thread(target=receive)
    thread.start()
    thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the options are glibc's")
def test_buffers_are_used_again_by_all_threads() -> None:
    faults = [
        int(subprocess.run([sys.executable, "-c", FAULTS, *words], check=True, capture_output=True).stdout)
        for words in ([], ["ours"])
    ]
    written = 2 * ROUNDS * PIECES * PIECE // resource.getpagesize()
    assert faults[0] > written / 2, "the system's own way costs a fault for each page"
    assert faults[1] < written / 50
