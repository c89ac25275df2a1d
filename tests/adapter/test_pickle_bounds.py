"""Time and memory stay in proportion to the bytes of a pickle, whatever these say."""

import contextlib
import struct
import time
import tracemalloc
from collections.abc import Mapping

import pytest

from lora_cli.adapter import pickle_machine as machine
from lora_cli.adapter.pickle_allowlist import TRAINER
from lora_cli.adapter.pickle_machine import read_pickle
from lora_cli.errors import FormatError

N = 20_000


def memoized(index: int) -> bytes:
    """The value on the stack goes into the memo, and the memo's first value into it."""
    return b"r" + struct.pack("<I", index) + b"h\x00a"


BOMBS: Mapping[str, bytes] = {
    "doubled tuples": b"\x80\x02)" + b"2\x86" * N + b".",
    "doubled lists in memo": b"\x80\x02]" + b"".join(map(memoized, range(N // 8))) + b".",
    "doubled dictionaries": b"\x80\x02}" + b"2\x85" * 40 + b"2\x86" * 200 + b".",
    "nested a hundred thousand deep": b"\x80\x02" + b"]" * N + b"a" * (N - 1) + b".",
    "nested tuples as a key": b"\x80\x02})" + b"2\x86" * 200 + b"Ns.",
    "nested tuples in a set": b"\x80\x04\x8f()" + b"2\x86" * 200 + b"\x90.",
    "nested tuples as an argument": b"\x80\x02ccollections\ndefaultdict\n)" + b"2\x86" * 200 + b"\x85R.",
    "nested tuples as a member": b"\x80\x02cbuiltins\ngetattr\n)" + b"2\x86" * 200 + b"2\x86R.",
    "nested tuples as a storage": b"\x80\x02)" + b"2\x86" * 200 + b"2222(00000tQ.",
    "one list called for ever": (
        b"\x80\x02](" + b"K\x01" * (N // 2) + b"eq\x000(" + b"cbuiltins\nset\nq\x01h\x00\x85R"
        + b"h\x01h\x00\x85R" * (N // 10) + b"l."
    ),
    "one list extended by itself": b"\x80\x02]q\x00(" + b"h\x00" * N + b"e.",
    "marks upon marks": b"\x80\x02" + b"(" * N + b"t" * N + b".",
    "memo all over": b"\x80\x04N" + b"".join(b"r" + struct.pack("<I", i * 65_537 % (1 << 32)) for i in range(N)) + b".",
    "strings by their lengths": b"X\xff\xff\xff\xff",
    "a frame of all the memory": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
    "bytes of all the memory": b"\x8e" + b"\xff" * 8,
    "memory for a bytearray": b"\x80\x02cbuiltins\nbytearray\n\x8a\x08" + b"\xff" * 7 + b"\x7f\x85R.",
    "names without an end": b"c" + b"a" * N,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_takes_time_and_memory_like_any_other_pickle(bomb: bytes) -> None:
    tracemalloc.start()
    began = time.process_time()
    with contextlib.suppress(FormatError):
        read_pickle(bomb, TRAINER)
    took = time.process_time() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took < 3
    assert peak < 40 * len(bomb) + (8 << 20)


def test_opcodes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MOST_OPCODES", 1000)
    with pytest.raises(FormatError, match="over 1000 opcodes"):
        read_pickle(b"N0" * 600 + b"N.", TRAINER)
