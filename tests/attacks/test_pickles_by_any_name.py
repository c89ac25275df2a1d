"""Pickles that run something, beside sound weights, under names and in containers that other tools load."""

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora_cli.finding import Finding, Skipped
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.making import write_adapter


class Gadget:
    """What runs a command when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (f"touch {self.path}",)


def gadget(path: Path, protocol: int = 4) -> bytes:
    return pickle.dumps(Gadget(path), protocol)


def in_array(data: bytes) -> bytes:
    """An array of objects as ``np.save`` writes it, with this pickle in it."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    return buffer.getvalue() + data


def in_zip(data: bytes, name: str = "a.npy", how: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def in_tar(data: bytes, name: str = "model_weights.ckpt", mode: Any = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def in_torch(data: bytes) -> bytes:
    """A torch file whose ``data.pkl`` this is."""
    buffer, new = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(new, "w") as archive:
        for info in old.infolist():
            archive.writestr(info.filename, data if info.filename.endswith("data.pkl") else old.read(info))
    return new.getvalue()


def plain(data: bytes) -> bytes:
    return data


WRAPPED: dict[str, Callable[[bytes], bytes]] = {
    "training_args.BIN": plain,
    "optimizer.PT": plain,
    "state.Pth": plain,
    "last.CKPT": plain,
    "x.pkl": plain,
    "x.PICKLE": plain,
    "x.p": plain,
    "x.pk": plain,
    "x.th": plain,
    "x.dill": plain,
    "x.sav": plain,
    "x.npy": in_array,
    "x.NPZ": lambda data: in_zip(in_array(data)),
    "x.nemo": lambda data: in_tar(in_torch(data)),
    "packed.nemo": lambda data: in_tar(in_torch(data), mode="w:gz"),
    "x.pkl.gz": gzip.compress,
    "x.pkl.bz2": bz2.compress,
    "x.pkl.xz": lzma.compress,
    "__0_0.distcp": in_torch,
    "raw.distcp": plain,
    ".metadata": plain,
    "x.joblib": plain,
    "zlib.joblib": zlib.compress,
    "gzip.joblib": gzip.compress,
    "xz.joblib": lzma.compress,
    "lzma.joblib": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "bz2.JOBLIB": bz2.compress,
    "old.joblib": lambda data: b"ZF" + f"{hex(len(data)):<19}".encode() + zlib.compress(data),
    "no_suffix": plain,
    "notes.md": plain,
    "image.png": plain,
    "x.dat": in_array,
    "bundle.zip": lambda data: in_zip(data, "deep/er/state"),
    "stored.zip": lambda data: in_zip(data, "state", zipfile.ZIP_STORED),
    "bundle.tar": in_tar,
    "bundle.tgz": lambda data: in_tar(data, mode="w:gz"),
    "bundle.tar.xz": lambda data: in_tar(data, mode="w:xz"),
    "torch.dat": in_torch,
    "sub/folder/x.Bin": plain,
}


def judged(folder: Path) -> tuple[list[Finding], list[Skipped]]:
    verdict = judge_one(Request("", str(folder)), Terms(values=False), Settings(folder.parent / "cache"))
    assert verdict.error is None
    findings = [one for one in verdict.findings if one.code == "LC108"]
    return findings, [one for one in verdict.skipped if one.code == "LC108"]


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_what_runs_something_is_refused_whatever_it_is_called(name: str, protocol: int, tmp_path: Path) -> None:
    adapter, ran = write_adapter(tmp_path / "adapter"), tmp_path / "ran"
    (adapter / name).parent.mkdir(parents=True, exist_ok=True)
    (adapter / name).write_bytes(WRAPPED[name](gadget(ran, protocol)))
    findings, _ = judged(adapter)
    assert [one.problem.at.file for one in findings] == [name]
    assert "system" in findings[0].problem.message
    assert not ran.exists()


@pytest.mark.parametrize("name", ["x.npy", "x.dat", "x.npz"])
@pytest.mark.parametrize(
    "descr",
    ["'object'", r"'\x7cO'", r"'\117'", "'O,O'", "b'O'", "[('a', [('b', 'O')])]", "[('a', 'object')]", "('O', {})"],
)
def test_an_array_is_of_objects_however_its_header_says_so(descr: str, name: str, tmp_path: Path) -> None:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}\n".encode()
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + gadget(tmp_path / "ran")
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / name).write_bytes(in_zip(array) if name.endswith("z") else array)
    findings, _ = judged(adapter)
    assert [one.problem.at.file for one in findings] == [name]
    assert "system" in findings[0].problem.message


LONG = 70_000


@pytest.mark.parametrize(
    "first",
    [
        b"X" + LONG.to_bytes(4, "little"),
        b"\x80\x02X" + LONG.to_bytes(4, "little"),
        b"T" + LONG.to_bytes(4, "little"),
        b"B" + LONG.to_bytes(4, "little"),
        b"\x96" + LONG.to_bytes(8, "little"),
        b"N0\x8d" + LONG.to_bytes(8, "little"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, in_zip])
def test_a_long_value_at_its_beginning_hides_no_pickle(
    first: bytes, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / "x.dat").write_bytes(pack(first + b"a" * LONG + b"0" + gadget(tmp_path / "ran")))
    findings, _ = judged(adapter)
    assert [one.problem.at.file for one in findings] == ["x.dat"]
    assert "system" in findings[0].problem.message


@pytest.mark.parametrize("name", ["x.dat", "x.npz"])
def test_a_zip_that_begins_as_an_empty_one_is_read(name: str, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / name).write_bytes(b"PK\x05\x06" + bytes(18) + in_zip(in_array(gadget(tmp_path / "ran"))))
    findings, _ = judged(adapter)
    assert [one.problem.at.file for one in findings] == [name]
    assert "system" in findings[0].problem.message


@pytest.mark.parametrize("name", ["x.npy", "x.dat", "x.npz"])
def test_a_header_of_an_array_has_a_bound_that_is_no_way_around(name: str, tmp_path: Path) -> None:
    header = b"{'descr': 'O', 'fortran_order': False, 'shape': (1,), }".ljust(70_000) + b"\n"
    array = b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header + gadget(tmp_path / "ran")
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / name).write_bytes(in_zip(array) if name.endswith("z") else array)
    assert [one.problem.at.file for one in judged(adapter)[0]] == [name]


BENIGN: dict[str, bytes] = {
    "README.md": b"# An adapter\n\nconfig\nimport os\n",
    "words.txt": b"cuda\ncpu\n",
    "imports.txt": b"import os\nimport sys\nimport re\nimport json\n",
    "LICENSE": b"Licensed under the Apache License, Version 2.0\n",
    "vocab.txt": b"cat\ncow\ncar\n" * 600,
    "merges.txt": b"#version: 0.2\n\xc4\xa0 t\n",
    "tokenizer.model": b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02" + bytes(range(256)) * 20,
    "tokenizer.json": b'{"version": "1.0"}',
    "picture.png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 64,
    "picture.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(range(256)) * 64,
    "events.out.tfevents.1": b"\x18\x00\x00\x00\x00\x00\x00\x00\xa3\x7f\x4b\x22" + b"\x00" * 64,
    "model.gguf": b"GGUF\x03\x00\x00\x00" + b"\x00" * 64,
    "model.onnx": b"\x08\x08\x12\x07pytorch" + b"\x00" * 64,
    "weights.h5": b"\x89HDF\r\n\x1a\n" + b"\x00" * 64,
    "data.parquet": b"PAR1" + b"\x15\x04" * 64 + b"PAR1",
    "data.arrow": b"ARROW1\x00\x00" + b"\x00" * 64,
    "run.log": b"INFO 12\nINFO 13\n",
    "script.py": b"class A:\n    pass\n",
    "run.sh": b"cd /tmp\nls\n",
    "table.csv": b"a,b\n1,2\n",
    "notes.pdf": b"%PDF-1.7\n" + b"\x00" * 64,
    "empty": b"",
    "empty.zip": b"PK\x05\x06" + bytes(18),
    "Xylophone.txt": b"X marks the spot\n" * 100_000,
    "random": bytes(np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8)),
    "logs.txt.gz": gzip.compress(b"a line\n" * 1000),
    "logs.json.xz": lzma.compress(b'{"a": 1}\n' * 1000),
    "data.jsonl.zst": b"\x28\xb5\x2f\xfd" + b"\x00" * 64,
    "arrays.npz": in_zip(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }".ljust(128)),
    "pictures.zip": in_zip(b"\x89PNG\r\n\x1a\n" + b"\x00" * 64, "a.png"),
    "report.docx": in_zip(b"<?xml version='1.0'?><w:document/>", "word/document.xml"),
    "source.tar.gz": in_tar(b"import os\n", "a.py", "w:gz"),
    "source.tar": in_tar(b"print(1)\n", "a.py"),
}


@pytest.mark.parametrize("name", BENIGN)
def test_what_runs_nothing_is_no_alarm(name: str, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / name).write_bytes(BENIGN[name])
    assert judged(adapter) == ([], [])


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580])
def test_other_safetensors_are_no_alarm_whatever_their_length_looks_like(length: int, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / "other.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}".ljust(length))
    assert judged(adapter) == ([], [])


def test_what_torch_and_numpy_write_is_no_alarm(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    np.save(adapter / "numbers.npy", np.arange(10))
    fields = [("a", "<f4"), ("ü", [("O", "<M8[ns]"), ("c", "U3")], (2,)), ("d", "|V3"), (("title", "e"), "?")]
    np.save(adapter / "fields.npy", np.zeros(2, fields))
    np.save(adapter / "objects.npy", np.array([{"a": 1}, None, "x"], dtype=object))
    np.savez(adapter / "some.npz", a=np.ones(3), b=np.array(["x", 1], dtype=object))
    np.savez_compressed(adapter / "packed.npz", a=np.ones(3))
    torch.save({"a": torch.ones(2)}, adapter / "OPTIMIZER.PT")
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    (adapter / "x.nemo").write_bytes(in_tar(buffer.getvalue(), "./model_weights.ckpt"))
    (adapter / "x.pkl.gz").write_bytes(gzip.compress(pickle.dumps({"a": [1, 2.0, "x", None]})))
    (adapter / "plain.dat").write_bytes(pickle.dumps({"a": 1}))
    assert judged(adapter) == ([], [])


def test_a_distributed_checkpoint_of_torch_is_no_alarm(tmp_path: Path) -> None:
    from torch.distributed.checkpoint.state_dict_saver import save

    adapter = write_adapter(tmp_path / "adapter")
    state = {"model": {"a": torch.ones(4, 4)}, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "lr": 0.1}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(state, checkpoint_id=adapter / "pytorch_model_fsdp_0", no_dist=True)
    assert (adapter / "pytorch_model_fsdp_0" / ".metadata").is_file()
    assert judged(adapter) == ([], [])
