"""Torch files and other pickles: tensors as torch itself loads them, and nothing that runs is taken for data."""

import contextlib
import io
import os
import pickle
import random
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.adapter.safetensors import TORCH_NAMES, TensorInfo
from lora_cli.adapter.torchfile import check_pickle, read_torch_file
from lora_cli.errors import FormatError, UnsafePickle
from lora_cli.finding import Finding, Skipped
from lora_cli.judging.judge import judge_one
from lora_cli.judging.read import Terms
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from lora_cli.sources.files import files_at
from tests.adapter.gadgets import FORMS, GADGETS
from tests.adapter.remote import remote
from tests.making import write_adapter

EVIL = b"cposix\nsystem\n(S'id'\ntR."
N = 20_000


def weights(data: bytes, *, scheme: Literal["file", "hf"] = "file") -> dict[str, TensorInfo]:
    _, files = remote({"adapter_model.bin": data}, scheme=scheme)
    return read_torch_file(files, *files)


def beside(data: bytes) -> bool:
    _, files = remote({"training_args.bin": data}, scheme="file")
    (file,) = files
    return check_pickle(files, file, count())


def saved(value: Any = None, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(4, 8), "b": torch.ones(3).bfloat16()} if value is None else value, buffer, **how)
    return buffer.getvalue()


PLAIN = saved()


def entries() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(PLAIN)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


PICKLE = entries()["data.pkl"]


def zipped(contents: Mapping[str, bytes] | list[tuple[str, bytes]], *, method: int = 0) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
        warnings.filterwarnings("ignore", message="Duplicate name")
        for name, data in contents.items() if isinstance(contents, Mapping) else contents:
            archive.writestr(name, data)
    return buffer.getvalue()


def with_(**more: bytes) -> bytes:
    """The plain file with other entries."""
    return zipped({f"x/{name}": data for name, data in (entries() | more).items()})


def pickled(old: bytes, new: bytes) -> bytes:
    """The plain file with something else in its pickle."""
    assert old in PICKLE
    return with_(**{"data.pkl": PICKLE.replace(old, new, 1)})


def refusals(data: bytes) -> Iterator[UnsafePickle]:
    """The errors of such a pickle as weights, in a file of torch, and beside the weights."""
    for look, written in ((weights, data), (weights, with_(**{"data.pkl": data})), (beside, data)):
        with pytest.raises(UnsafePickle) as caught:
            look(written)
        yield caught.value


@pytest.mark.parametrize("form", FORMS)
def test_a_name_that_runs_something_is_refused_however_it_is_written(form: str) -> None:
    for module, name in GADGETS:
        for error in refusals(FORMS[form](module, name)):
            assert error.global_name == f"{module}.{name}"


class Touch:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.system, (f"touch {self.mark}",)


def test_a_pickle_of_a_real_object_is_refused_and_not_run(tmp_path: Path) -> None:
    for protocol in range(6):
        assert len([*refusals(pickle.dumps(Touch(tmp_path / "mark"), protocol))]) == 3
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x80\x04\x82\x01.", "EXT1"),
        (b"\x80\x02X\x01\x00\x00\x00aX\x01\x00\x00\x00b\x93.", r"STACK_GLOBAL 'a\.b'"),
        (b"\x80\x04\x8c\x02os]0\x8c\x06system\x93.", "STACK_GLOBAL 'system'"),
        (b"\x80\x04\x8c\x05torch\x94\x8c\x04Size\x940h\x00h\x072\x93.", "STACK_GLOBAL ''"),
        (b"\x80\x04\x8c\x04thisN0\x8c\x17collections OrderedDict\x93.", "STACK_GLOBAL"),
        (b"}." + b"\x80\x02]." + EVIL, r"posix\.system"),
        (b"\x80\x02X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20) + b"0" + EVIL, r"posix\.system"),
        (EVIL + bytes(33 << 20), r"posix\.system"),
    ],
)
def test_a_lookup_that_cannot_be_told_is_refused_wherever_it_is(data: bytes, says: str) -> None:
    for look in (weights, beside):
        with pytest.raises(UnsafePickle, match=says):
            look(data)


SHAPES = {
    "some rows": torch.arange(48.0).reshape(6, 8)[2:4],
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
    "one column": torch.ones(1, 5).t(),
}
DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]


@pytest.mark.parametrize("checksums", [True, False])
def test_names_shapes_and_bytes_are_those_that_torch_loads(checksums: bool, tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    typed = {name: torch.arange(12.0).reshape(4, 3).to(getattr(torch, name)) for name in DTYPES}
    state = torch.nn.Linear(3, 2).state_dict()  # has the versions of modules as an attribute
    torch.serialization.set_crc32_options(checksums)
    try:
        torch.save(OrderedDict(state) | typed | SHAPES, path)
    finally:
        torch.serialization.set_crc32_options(True)
    loaded, data = torch.load(path, weights_only=True), path.read_bytes()

    read = weights(data)

    assert read.keys() == loaded.keys()
    for name, tensor in loaded.items():
        assert read[name].shape == tuple(tensor.shape), name
        flat = tensor.detach().contiguous().reshape(-1)
        assert data[read[name].start : read[name].stop] == bytes(flat.view(torch.uint8).numpy()), name
    assert {TORCH_NAMES[read[name].dtype] for name in DTYPES} == set(DTYPES)
    assert list(read.values()) == sorted(read.values(), key=lambda one: one.start)


def test_a_remote_file_is_known_from_its_directory_and_its_pickle(tmp_path: Path) -> None:
    torch.save({f"layer.{i}.weight": torch.zeros(1 << 16) for i in range(64)}, tmp_path / "adapter_model.bin")
    source, files = remote(tmp_path)

    read = read_torch_file(files, *files)

    assert read == weights((tmp_path / "adapter_model.bin").read_bytes())
    assert source.given < 200_000
    assert len(source.ranges) <= 3


AS_TORCH = "as torch writes it"
REFUSED: Mapping[str, tuple[bytes, str]] = {
    "a pickle twice": (zipped([*((f"x/{n}", d) for n, d in entries().items()), ("x/data.pkl", EVIL)]), AS_TORCH),
    "a TorchScript program": (with_(**{"constants.pkl": EVIL, "code/a.py": b""}), AS_TORCH),
    "a second folder": (zipped({f"x/{n}": d for n, d in entries().items()} | {"y/data/7": b"1"}), AS_TORCH),
    "compressed entries": (zipped({f"x/{n}": d for n, d in entries().items()}, method=8), AS_TORCH),
    "a directory that is stated elsewhere": (PLAIN[:-50] + bytes(8) + PLAIN[-42:], AS_TORCH),
    "a directory that is stated to be longer": (PLAIN[:-57] + b"\x7f" + PLAIN[-56:], "its end says"),
    "an end that is none": (PLAIN[:-22] + b"x" + PLAIN[-21:], AS_TORCH),
    "a state of a tensor": (with_(**{"data.pkl": PICKLE.replace(b"Rq\x0d", b"Rq\x0d}b")}), "BUILD"),
    "a storage that is missing": (zipped({f"x/{n}": d for n, d in entries().items() if n != "data/0"}), "KeyError"),
    "a storage that is short": (with_(**{"data/0": b"1234"}), "beyond its storage"),
    "negative strides": (pickled(b"K\x08K\x01\x86", b"K\x08J\xff\xff\xff\xff\x86"), "not of counts"),
    "a pickle behind its pickle": (with_(**{"data.pkl": PICKLE + b"}."}), "not a dictionary of tensors"),
    "a huge directory": (b"PK\x03\x04" + b"PK\x01\x02" * (10 << 20) + b"PK\x05\x06" + bytes(8)
                         + struct.pack("<IIH", 40 << 20, 4, 0), "at once"),
    "torch before 1.6": (saved(_use_new_zipfile_serialization=False), "since 1.6"),
    "nothing": (b"", "since 1.6"),
    "a transposed tensor": (saved({"a": torch.ones(4, 8).t()}), "not contiguous"),
    "a list": (saved([torch.ones(2)]), "EMPTY_LIST"),
    "a number as a name": (saved({1: torch.ones(2)}), "something else than tensors"),
    "an array": (saved({"a": np.zeros(2)}), "weights never need|not an opcode"),
    "eight bits": (saved({"a": torch.ones(2).to(torch.float8_e4m3fn)}), "weights never need"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "says"), REFUSED.values(), ids=REFUSED)
def test_weights_that_are_no_plain_dictionary_of_tensors_are_refused(data: bytes, says: str) -> None:
    for scheme in ("file", "hf"):
        with pytest.raises(FormatError, match=says) as caught:
            weights(data, scheme=scheme)
        assert not isinstance(caught.value, UnsafePickle)
        assert str(caught.value).startswith("adapter_model.bin: ")


SHARED = b"}q\x00" + b"0)q\x01" + b"0h\x01h\x01\x86q\x01" * 200
BOMBS: Mapping[str, bytes] = {
    "nested tuples as a key": b"\x80\x02" + SHARED + b"0h\x00h\x01Ns.",
    "nested tuples as a dtype": PICKLE[:-1] + b"0" + SHARED + b"0ctorch._utils\n_rebuild_tensor_v3\nh\x01R.",
    "memo all over": b"\x80\x04N" + b"".join(b"r" + struct.pack("<I", i * 65_537 % (1 << 32)) for i in range(N)) + b".",
    "a frame of all the memory": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
    "a name without an end": b"c" + b"a" * N,
    "more opcodes than weights have": b"N0" * 1_100_000 + b"N.",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_takes_memory_in_proportion_to_its_bytes(bomb: bytes) -> None:
    for look, data in ((weights, with_(**{"data.pkl": bomb})), (beside, bomb)):
        survives(look, data, most=40 * len(bomb) + (8 << 20))


def survives(act: Callable[[bytes], object], data: bytes, most: int = 8 << 20) -> None:
    tracemalloc.start()
    with contextlib.suppress(FormatError):
        act(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < most


@given(st.sampled_from([PLAIN, PICKLE]), st.data())
def test_a_file_that_was_changed_anywhere_is_read_or_refused(whole: bytes, drawn: st.DataObject) -> None:
    data = bytearray(whole)
    for _ in range(drawn.draw(st.integers(1, 8))):
        at = drawn.draw(st.integers(0, len(data) - 1))
        new = drawn.draw(st.binary(max_size=8) | st.sampled_from([b"(", b".", b"c", b"R", b"\x93", b"\xff"]))
        data[at : at + drawn.draw(st.integers(0, 20))] = new
    for act in (weights, beside):
        survives(act, bytes(data))


def judged(folder: Path) -> tuple[list[Finding], list[Skipped]]:
    verdict = judge_one(Request("", str(folder)), Terms(Settings(folder.parent / "cache"), values=False))
    assert verdict.error is None
    findings = [one for one in verdict.findings if one.code == "LC108"]
    return findings, [one for one in verdict.skipped if one.code == "LC108"]


@pytest.mark.parametrize("name", ["training_args.BIN", "state.Pth", "x.pkl", "x.p", "sub/x.bin", "adapter_model.bin"])
def test_what_runs_something_beside_the_weights_is_an_error(name: str, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / name).parent.mkdir(parents=True, exist_ok=True)
    for data in (EVIL, with_(**{"data.pkl": EVIL})):
        (adapter / name).write_bytes(data)
        findings, _ = judged(adapter)
        assert [one.problem.at.file for one in findings] == [name]
        assert "posix.system" in findings[0].problem.message


NOT_READ = {
    **dict.fromkeys(("x.npy", "x.joblib", "__0_0.distcp", ".metadata", "x.pth.tar", "x.pkl.gz"), EVIL),
    **{"x.pkl": zlib.compress(EVIL), "a.bin": b"\x93NUMPY" + EVIL, "b.pt": b"zz" + EVIL},
}


@pytest.mark.parametrize("name", NOT_READ)
def test_what_is_not_looked_into_is_said(name: str, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / name).write_bytes(NOT_READ[name])
    findings, skipped = judged(adapter)
    assert findings == []
    assert [one.reason.partition(" ")[0] for one in skipped] == [name]


LONG = b"B" + struct.pack("<I", (32 << 20) - 6) + bytes((32 << 20) - 6) + b"."
"""A pickle as long as what is looked at."""


@pytest.mark.parametrize(
    "data", [b"PK", b"PK\x03\x04", b"I1\n", b"\x80\x02}", b"N" * (33 << 20), b"X\xff\xff\xff\x7f.", LONG + EVIL]
)
def test_what_begins_as_a_pickle_and_cannot_be_followed_is_an_error(data: bytes, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / "x.bin").write_bytes(data)
    assert [one.problem.at.file for one in judged(adapter)[0]] == ["x.bin"]


def test_all_files_together_have_one_bound_and_none_behind_it_is_called_sound(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    for number in range(3):
        (adapter / f"a_{number}.bin").write_bytes(b"\x80\x02(" + b"N" * 900_000 + b"t.")
    (adapter / "z.bin").write_bytes(EVIL)
    assert [one.problem.at.file for one in judged(adapter)[0]] == ["a_2.bin", "z.bin"]


BENIGN: Mapping[str, bytes] = {
    "tokenizer.model": b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02" + bytes(range(256)) * 20,
    "empty.bin": b"",
    "tensors.pt": PLAIN,
    "plain.pkl": pickle.dumps({"a": [1, 2.0, "x", None]}),
}


def test_what_a_trainer_leaves_is_no_alarm(tmp_path: Path) -> None:
    from transformers import TrainingArguments

    adapter = write_adapter(tmp_path / "adapter")
    for name, data in BENIGN.items():
        (adapter / name).write_bytes(data)
    model = torch.nn.Linear(4, 4)
    adamw = torch.optim.AdamW(model.parameters(), amsgrad=True)
    model(torch.ones(1, 4)).sum().backward()
    adamw.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(adamw, [1, 2, 2])
    states = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
    states["numbers"] = (np.float32(1.5), np.int64(3), np.array([1.0, 2.0]), {1, 2}, frozenset({3}), b"raw", 1j)
    torch.save(adamw.state_dict(), adapter / "optimizer.pt")
    torch.save(TrainingArguments("out", use_cpu=True, report_to=[]), adapter / "training_args.bin")
    torch.save(scheduler.state_dict(), adapter / "scheduler.pt")
    for protocol in (2, 5):
        torch.save(states, adapter / f"rng_state_{protocol}.pth", pickle_protocol=protocol)
        (adapter / f"random_states_{protocol}.pkl").write_bytes(pickle.dumps(states["numbers"], protocol))
    assert judged(adapter) == ([], [])

    (adapter / "training_args.bin").rename(adapter / "adapter_model.bin")
    with pytest.raises(FormatError, match="NEWOBJ is not an opcode that weights need"):
        read_torch_file(files := files_at(adapter), next(file for file in files if file.path == "adapter_model.bin"))
