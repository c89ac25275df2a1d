"""Pickles beside the weights that are long to read: bounded for all of them together, and what is left is told."""

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.attacks.measured import Run, within
from tests.making import write_adapter

pytestmark = pytest.mark.slow

MIB = 1 << 20
SECONDS, MB = 6, 300
"""What one adapter with pickles beside it may take: two million opcodes in all."""

GADGET = b"cos\nsystem\n(S'true'\ntR."


def judge(adapter: Path) -> Run:
    return within(SECONDS, MB, "validate", adapter, "--base", "none")


LONG: dict[str, Callable[[], bytes]] = {
    "pickle after pickle": lambda: b"N." * (16 * MIB),
    "one pickle": lambda: b"(" + b"N" * (32 * MIB - 3) + b"t.",
    "dictionaries": lambda: b"(" + b"}" * (32 * MIB - 3) + b"t.",
    "dictionaries in a list": lambda: b"]" + b"}a" * (16 * MIB - 1) + b".",
    "lists in lists": lambda: b"]" * (16 * MIB) + b"a" * (16 * MIB - 1) + b".",
    "marks": lambda: b"(" * (32 * MIB),
    "long texts": lambda: (b"X" + struct.pack("<I", MIB) + b"x" * MIB + b"0") * 31 + b"N.",
    "numbers": lambda: b"J\xff\xff\xff\x7f" * (6 * MIB) + b".",
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("file", ["training_args.bin", "notes.dat"])
def test_one_long_file_is_read_within_bounds(name: str, file: str, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / file).write_bytes(LONG[name]())
    run = judge(adapter)
    if file == "training_args.bin" and name != "long texts":
        assert run.code == 1
        assert "more than any weights need" in " ".join(run.out.split())


def test_sixty_four_of_them_take_no_longer_than_one(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    for number in range(64):
        (adapter / f"state_{number}.bin").write_bytes(b"\x80\x02(" + b"N" * (2 * MIB) + b"t.")
    run = judge(adapter)
    assert run.code == 1
    assert "LC108" in run.out


def test_a_gadget_behind_long_ones_is_not_called_ok(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    for number in range(8):
        (adapter / f"a_{number}.bin").write_bytes(b"\x80\x02(" + b"N" * (MIB // 2) + b"t.")
    (adapter / "z.bin").write_bytes(GADGET)
    run = judge(adapter)
    assert run.code == 1
    assert "z.bin" in run.out


def test_a_gadget_among_more_files_than_are_read_is_refused(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    for number in range(64):
        (adapter / f"a_{number}.bin").write_bytes(b"\x80\x02N.")
    (adapter / "z.bin").write_bytes(GADGET)
    run = judge(adapter)
    assert run.code == 1
    assert "is not checked: the folder has over 64 files with a pickle's name" in " ".join(run.out.split())


def zip_of(members: Iterator[tuple[str, bytes]], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def tar_of(members: Iterator[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def one_huge_header() -> bytes:
    """A tar file whose header of one file claims to be a gigabyte."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    return info.tobuf(tarfile.USTAR_FORMAT) + b"x" * 64 * MIB


BOMBS: dict[str, Callable[[], bytes]] = {
    "zeros.pkl.gz": lambda: gzip.compress(bytes(256 * MIB), 1),
    "nones.pkl.gz": lambda: gzip.compress(b"(" + b"N" * (64 * MIB), 1),
    "nones.npz": lambda: zip_of((f"{n}.pkl", b"\x80\x02(" + b"N" * (40 * MIB)) for n in range(2)),
    "members.zip": lambda: zip_of(((f"{n}", b"\x80\x02N.") for n in range(60_000)), zipfile.ZIP_STORED),
    "members.nemo": lambda: tar_of((f"{n}", b"\x80\x02N.") for n in range(60_000)),
    "arrays.npz": lambda: zip_of((f"{n}.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\x00" + b"'" * MIB) for n in range(64)),
    "huge.nemo": one_huge_header,
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_unpacks_to_gigabytes_is_looked_at_in_part(name: str, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / name).write_bytes(BOMBS[name]())
    judge(adapter)


def test_thousands_of_files_are_looked_at_quickly(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    for number in range(5000):
        (adapter / f"{number}.txt").write_bytes(b"V" + b"x" * 10_000)
    run = judge(adapter)
    assert "may contain pickles and were not fully checked" in " ".join(run.out.split())


def test_pickled_weights_have_the_same_bounds(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(LONG["dictionaries"]())
    run = judge(adapter)
    assert run.code == 1
    assert "LC102" in run.out
