"""Zip files that readers disagree about, and files that were changed anywhere: an error, never a crash."""

import contextlib
import io
import pickle
import struct
import tarfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.adapter.pickle_allowlist import WEIGHTS
from lora_cli.adapter.pickle_contents import contains_pickle as look_at
from lora_cli.adapter.pickle_machine import OPCODES, ReadBudget, can_begin, read_pickle
from lora_cli.adapter.torch_pickle import open_ranges, read_pickled
from lora_cli.errors import FormatError
from tests.adapter.remote import remote

EVIL = b"cposix\nsystem\n(S'id'\ntR."


def read(data: bytes, *, scheme: Literal["file", "hf"] = "file") -> None:
    _, files = remote({"adapter_model.bin": data}, scheme=scheme)
    read_pickled(files, *files)


def look(data: bytes, *, named: bool = True) -> bool:
    _, files = remote({"adapter_model.bin": data}, scheme="file")
    with open_ranges(files, next(iter(files)), ReadBudget()) as readable:
        return look_at(readable, named=named)


@pytest.mark.parametrize("named", [True, False])
def test_text_that_executes_nothing_is_a_pickle_only_by_its_name(named: bool) -> None:
    assert look(b"I1\n.", named=named) is named


def saved(*, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    tensors = {"a.lora_A.weight": torch.ones(4, 8), "a.lora_B.weight": torch.ones(8, 4).bfloat16().t()}
    torch.save(tensors, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


PLAIN, LEGACY = saved(), saved(legacy=True)


def entries() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(PLAIN)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(contents: Mapping[str, bytes] | list[tuple[str, bytes]], *, method: int = 0, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
        warnings.filterwarnings("ignore", message="Duplicate name")
        for name, data in contents.items() if isinstance(contents, Mapping) else contents:
            archive.writestr(name, data)
        archive.comment = comment
    return buffer.getvalue()


def pickled(old: bytes, new: bytes) -> bytes:
    """The plain file with something else in its pickle."""
    return zipped(with_(**{"data.pkl": changed(old, new, INNER["data.pkl"], 1)}))


def changed(old: bytes, new: bytes, data: bytes = PLAIN, count: int = -1) -> bytes:
    assert old in data
    return data.replace(old, new, count)


def flagged(bit: int) -> bytes:
    """The plain file with a flag set in the directory's first entry."""
    data = bytearray(PLAIN)
    data[data.index(b"PK\x01\x02") + 8] |= bit
    return bytes(data)


ROOT = next(iter(entries())).partition("/")[0]
INNER = {name.partition("/")[2]: data for name, data in entries().items()}


def with_(**more: bytes) -> dict[str, bytes]:
    return {f"{ROOT}/{name}": data for name, data in (INNER | more).items()}


def overlapping() -> bytes:
    """The plain file, whose directory puts the storage's header where the pickle's data is."""
    data = bytearray(PLAIN)
    with zipfile.ZipFile(io.BytesIO(PLAIN)) as archive:
        target = archive.getinfo(f"{ROOT}/data/0").header_offset
    at = PLAIN.index(struct.pack("<I", target) + f"{ROOT}/data/0".encode(), PLAIN.index(b"PK\x01\x02"))
    data[at : at + 4] = struct.pack("<I", 100)
    return bytes(data)


def long_extra() -> bytes:
    """The plain file, whose pickle's local header claims more extra bytes than there are up to the next entry."""
    data = bytearray(PLAIN)
    data[28:30] = struct.pack("<H", 5000)
    return bytes(data)


TRICKS: Mapping[str, tuple[bytes, str]] = {
    "a hostile pickle": (zipped(with_(**{"data.pkl": EVIL})), "posix.system"),
    "a hostile pickle under the same name": (
        zipped([*with_().items(), (f"{ROOT}/data.pkl", EVIL)]), "appears twice",
    ),
    "a pickle under a name in capitals": (zipped(with_(**{"DATA.PKL": EVIL})), "DATA.PKL"),
    "a second pickle": (zipped(with_(**{"constants.pkl": EVIL})), "TorchScript"),
    "a second folder": (zipped({**with_(), "other/data.pkl": EVIL}), "appears twice|one torch file"),
    "a second folder of other entries": (zipped({**with_(), "other/data/7": b"1234"}), "one torch file"),
    "an entry within another": (overlapping(), "overlaps what follows it"),
    "a local header that reaches too far": (long_extra(), "overlaps what follows it"),
    "a name twice": (pickled(b"a.lora_B", b"a.lora_A"), "twice"),
    "a storage of two types": (pickled(b"X\x01\x00\x00\x001q", b"X\x01\x00\x00\x000q"), "two different ones"),
    "a nested zip": (zipped(with_(**{"inner.zip": PLAIN})), "inner.zip"),
    "a path that leads out": (zipped({**with_(), f"{ROOT}/../data.pkl": EVIL}), "does not write"),
    "compressed entries": (zipped(with_(), method=zipfile.ZIP_DEFLATED), "compressed"),
    "a comment at the end": (zipped(with_(), comment=b"x" * 40), "does not end with a zip directory"),
    "something in front": (b"PK\x03\x04" + PLAIN, "end"),
    "something behind": (PLAIN + b"\0", "does not end with a zip directory"),
    "an encrypted entry": (flagged(1), "encrypted"),
    "no data.pkl": (zipped({name: data for name, data in with_().items() if "pkl" not in name}), "no data.pkl"),
    "a big-endian file": (zipped(with_(byteorder=b"big")), "big-endian"),
    "a missing storage": (zipped({name: data for name, data in with_().items() if "data/0" not in name}), "no storage"),
    "a short storage": (zipped(with_(**{"data/0": b"1234"})), "4 bytes for 32 elements"),
    "a longer pickle": (zipped(with_(**{"data.pkl": INNER["data.pkl"] + EVIL})), "more bytes after"),
    "another name in a local header": (changed(b"data.pkl", b"data.pkx", count=1), "another name"),
    "an empty zip": (b"PK\x03\x04" + b"PK\x05\x06" + bytes(18), "end record|directory"),
    "a directory elsewhere": (changed(b"PK\x01\x02", b"PK\x01\x03", count=1), "malformed"),
    "only its beginning": (PLAIN[:400], "does not end with a zip directory"),
    "a shape beyond the storage": (pickled(b"K\x04K\x08\x86", b"K\x40K\x08\x86"), "beyond its storage"),
    "negative strides": (pickled(b"K\x08K\x01\x86", b"K\x08J\xff\xff\xff\xff\x86"), "instead of a count"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "says"), TRICKS.values(), ids=TRICKS)
def test_a_zip_file_that_torch_does_not_write_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        read(data)


def test_what_python_writes_plainly_is_read_like_what_torch_writes() -> None:
    read(zipped(with_()))
    read(PLAIN)
    read(LEGACY)
    read(PLAIN, scheme="hf")


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(EVIL)
            archive.addfile(info, io.BytesIO(EVIL))
    return buffer.getvalue()


def unlisted() -> bytes:
    """The legacy file with a list of no storages."""
    at = 0
    for _ in range(4):
        _, at = read_pickle(LEGACY, WEIGHTS, at)
    return LEGACY[:at] + b"\x80\x02]." + LEGACY[at:]


LEGACY_TRICKS: Mapping[str, tuple[bytes, str]] = {
    "a tar file of the first torch": (tar(), "tar file"),
    "a plain pickle": (b"\x80\x02}.", "not one written by torch.save"),
    "cut off in its storages": (LEGACY[:-1], "storages end at byte"),
    "longer": (LEGACY + b"\0", "storages end at byte"),
    "cut off in its pickles": (LEGACY[:100], "ends"),
    "of another version": (changed(b"M\xe9\x03.", b"M\xea\x03.", LEGACY), "unknown version"),
    "without one of its storages": (unlisted(), "other storages"),
    "big-endian": (changed(b"little_endianq\x02\x88", b"little_endianq\x02\x89", LEGACY), "big-endian"),
    "nothing": (b"", "ends at byte 0"),
}


@pytest.mark.parametrize(("data", "says"), LEGACY_TRICKS.values(), ids=LEGACY_TRICKS)
def test_a_legacy_file_that_torch_does_not_write_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        read(data)


@pytest.mark.parametrize("after", range(6))
def test_each_pickle_of_a_legacy_file_is_read(after: int) -> None:
    """A gadget in place of the magic number, the version, the system, the object, the keys; and behind them all."""
    at = 0
    for _ in range(min(after, 4)):
        _, at = read_pickle(LEGACY, WEIGHTS, at)
    with pytest.raises(FormatError, match=r"posix\.system" if after < 5 else "storages end"):
        read(LEGACY[:at] + EVIL + LEGACY[at:] if after < 5 else LEGACY + EVIL)


def test_several_pickles_beside_the_weights_are_all_read() -> None:
    look(b"}." + b"]." + b"N.")
    with pytest.raises(FormatError, match=r"posix\.system"):
        look(b"}." + b"]." + EVIL)
    with pytest.raises(FormatError, match=r"posix\.system"):
        look(b"\x80\x02X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20) + b"." + EVIL)
    with pytest.raises(FormatError, match="not a pickle opcode"):
        look(b"}." + b"\0" * 100)


@pytest.mark.parametrize(
    "data", [b"", b"algg\x01\x00", b"version https://git-lfs", b"<html>", b"\x00" * 9, b"Repository"]
)
def test_what_nobody_can_load_as_a_pickle_is_let_be(data: bytes) -> None:
    with pytest.raises((pickle.UnpicklingError, EOFError, IndexError)):
        pickle.loads(data)
    look(data)
    with pytest.raises(FormatError):
        read(data)


def test_a_first_opcode_that_python_can_run_can_begin_a_pickle() -> None:
    for byte, opcode in OPCODES.items():
        # Enough bytes for any argument, and then opcodes that fail.
        rest = b"1\n1\n" + bytes(8) + b"0" * 8
        with pytest.raises(Exception) as caught:
            pickle.loads(bytes([byte]) + rest)
        starved = any(word in str(caught.value) for word in ("underflow", "MARK", "stack", "persistent"))
        assert can_begin(bytes([byte])) or starved, opcode.name


MUTATED: Mapping[str, bytes] = {"zip": PLAIN, "legacy": LEGACY, "pickle": INNER["data.pkl"]}


def survives(act: Callable[[bytes], object], data: bytes) -> None:
    tracemalloc.start()
    with contextlib.suppress(FormatError):
        act(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


@given(st.sampled_from(sorted(MUTATED)), st.data())
def test_a_file_that_was_changed_anywhere_is_read_or_refused(kind: str, drawn: st.DataObject) -> None:
    data = bytearray(MUTATED[kind])
    for _ in range(drawn.draw(st.integers(1, 8))):
        at = drawn.draw(st.integers(0, len(data) - 1))
        match drawn.draw(st.sampled_from(["flip", "set", "cut", "copy", "insert"])):
            case "flip":
                data[at] ^= 1 << drawn.draw(st.integers(0, 7))
            case "set":
                data[at] = drawn.draw(
                    st.sampled_from([0, 0xFF, 0x7F, 0x80, ord("("), ord("."), ord("c"), ord("R"), 0x93])
                )
            case "cut":
                del data[at : at + drawn.draw(st.integers(1, 20))]
            case "copy":
                data[at:at] = data[at : at + drawn.draw(st.integers(1, 40))]
            case _:
                data[at:at] = drawn.draw(st.binary(min_size=1, max_size=8))
        if not data:
            break
    for act in (read, look):
        survives(act, bytes(data))


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04"]))
def test_any_bytes_are_read_or_refused(data: bytes, start: bytes) -> None:
    for act in (read, look):
        survives(act, start + data)
