"""Pieces are written whole, however few of their bytes the kernel takes at a time."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from lora_cli.store.disk import IOV_MAX, write_pieces

PIECES: list[bytes | memoryview] = [b"one", b"", memoryview(b"twenty-two"), b"3" * 70]


def written(path: Path, pieces: Sequence[bytes | memoryview]) -> bytes:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        write_pieces(descriptor, pieces)
    finally:
        os.close(descriptor)
    return path.read_bytes()


@pytest.mark.parametrize("count", [0, 1, IOV_MAX - 1, IOV_MAX, 2 * IOV_MAX + 1])
def test_more_pieces_than_one_call_takes_are_all_there(count: int, tmp_path: Path) -> None:
    pieces = [str(number).encode() for number in range(count)]
    assert written(tmp_path / "file", pieces) == b"".join(pieces)


@pytest.mark.parametrize("most", [1, 2, 3, 4, 13, 82, 83])
def test_what_the_kernel_did_not_take_is_written_next(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.pwritev

    def short(descriptor: int, views: Sequence[memoryview], at: int) -> int:
        left, taken = most, []
        for view in views:
            taken.append(view[:left])
            left -= len(taken[-1])
        return whole(descriptor, taken, at)

    monkeypatch.setattr(os, "pwritev", short)
    assert written(tmp_path / "file", PIECES) == b"".join(PIECES)
