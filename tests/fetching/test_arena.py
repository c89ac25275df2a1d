"""Threads share what memory is free, and keep it: glibc tells how many arenas they have, the kernel what it cleared."""

import platform
import subprocess
import sys

import pytest

ARENAS = """
import ctypes, sys, threading
from lora_cli.fetching.arena import share_memory
if sys.argv[1] == "shared":
    share_memory()
meeting = threading.Barrier(8)
def work():
    kept = [bytes(50_000) for _ in range(20)]
    meeting.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
@pytest.mark.parametrize(("how", "one"), [("shared", True), ("as usual", False)])
def test_threads_share_one_arena(how: str, one: bool) -> None:
    told = subprocess.run([sys.executable, "-c", ARENAS, how], capture_output=True, text=True, check=True).stdout
    assert (told.count("<heap nr=") == 1) is one


FAULTS = """
import resource, sys
from lora_cli.fetching.arena import share_memory
if sys.argv[1] == "kept":
    share_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(10):
    if turn == 5:
        before = faults()
    pieces = [b"1" * 250_000 for _ in range(32)]
    del pieces
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives it back like that")
@pytest.mark.parametrize(("how", "few"), [("kept", True), ("as usual", False)])
def test_what_a_download_frees_is_not_cleared_for_the_next_one(how: str, few: bool) -> None:
    told = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout
    assert (int(told) < 500) is few
