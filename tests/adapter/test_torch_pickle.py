"""Torch files read by ranges, beside what torch itself makes of them."""

import pickle
import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora_cli.adapter.pickle_files import scan_pickles
from lora_cli.adapter.pickle_machine import ReadBudget
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.adapter.torch_pickle import check_pickle, open_ranges, read_pickled
from lora_cli.errors import FormatError, UnsafePickle
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.sources.files import Files, files_at
from tests.adapter.remote import remote

TYPED = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
COMPLEX = ("complex64", "complex128")
UNTYPED = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


def seeded(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).abs().to(dtype)


LEGACY = (*TYPED, *COMPLEX)
DTYPES = (*LEGACY, *UNTYPED, "float8_e8m0fnu")


def tensors(dtypes: tuple[str, ...] = DTYPES) -> dict[str, Any]:
    wide = seeded(6, 8)
    whole = seeded(3, 4, 5)
    attributed = seeded(2, 2)
    attributed.note = "kept"  # type: ignore[attr-defined]
    return {
        **{name: seeded(4, 3, dtype=getattr(torch, name)) for name in dtypes},
        "transposed": seeded(4, 8).t(),
        "every other column": wide[:, ::2],
        "some rows": wide[2:4],
        "permuted": whole.permute(2, 0, 1),
        "a slice of a slice": whole[1:, :, 1:3].permute(1, 2, 0),
        "parameter": torch.nn.Parameter(seeded(5)),
        "attributed": attributed,
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "expanded": seeded(1, 4).expand(3, 4),
    }


def save(how: str, value: dict[str, Any], path: Path) -> None:
    """As torch does today, and as it did before it wrote zip files (and had storages without a type)."""
    value = OrderedDict(value) if how == "ordered" else value
    torch.save(value, path, _use_new_zipfile_serialization=how != "legacy")


def near(path: Path) -> tuple[Files, RemoteFile]:
    files = files_at(path.parent)
    file = files.file(path.name)
    assert file is not None
    return files, file


def values(data: bytes, info: TensorInfo, dtype: torch.dtype) -> torch.Tensor:
    """What the byte range, the shape and the strides say that the tensor is."""
    if info.start == info.stop:
        return torch.empty(info.shape, dtype=dtype)
    raw = torch.from_numpy(np.frombuffer(data[info.start : info.stop], dtype=np.uint8).copy()).view(dtype)
    return raw.as_strided(info.shape, info.strides) if info.strides else raw.view(info.shape)


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of all elements in the order of their indices."""
    flat = tensor.detach().reshape(-1).contiguous()
    return flat.view(torch.uint8) if flat.numel() else torch.empty(0, dtype=torch.uint8)


@pytest.mark.parametrize("how", ["plain", "ordered", "legacy"])
def test_names_dtypes_shapes_strides_and_bytes_are_those_that_torch_loads(how: str, tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    save(how, tensors(LEGACY if how == "legacy" else DTYPES), path)
    loaded = torch.load(path, weights_only=False)

    read = read_pickled(*near(path))

    assert read.keys() == loaded.keys()
    data = path.read_bytes()
    for name, tensor in loaded.items():
        assert read[name].shape == tuple(tensor.shape), name
        assert (read[name].strides or tensor.contiguous().stride()) == tensor.stride(), name
        found = values(data, read[name], tensor.dtype)
        assert plain(found).equal(plain(tensor)), name
    assert read["bfloat16"].dtype == "BF16"
    assert how == "legacy" or read["float8_e4m3fn"].dtype == "F8_E4M3"
    assert read["complex128"].dtype == "C128"


def test_a_remote_file_is_known_from_its_directory_and_its_pickle(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    torch.save({f"layer.{i}.weight": torch.zeros(1 << 16) for i in range(64)} | tensors(), path)
    source, files = remote(tmp_path)

    read = read_pickled(files, *files)

    assert read == read_pickled(*near(path))
    assert source.given < 100_000 < path.stat().st_size
    assert len(source.ranges) == 3


def test_a_file_without_checksums_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_pickled(*near(path))["a"].shape == (3,)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([torch.zeros(2)], "holds a list instead of a dictionary of tensors"),
        ({"a": {"b": torch.zeros(2)}}, "holds a dictionary under 'a' among its tensors"),
        ({"a": 1}, "holds an integer under 'a'"),
        ({1: torch.zeros(2)}, "holds a tensor among its tensors"),
        ({"a": np.zeros(2)}, "numpy"),
    ],
)
def test_weights_that_are_no_dictionary_of_tensors_are_an_error(value: Any, says: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "adapter_model.bin")
    with pytest.raises(FormatError, match=says) as caught:
        read_pickled(*near(tmp_path / "adapter_model.bin"))
    assert caught.value.where == "adapter_model.bin"
    assert str(caught.value).startswith("adapter_model.bin: ")


def test_a_protocol_that_weights_only_does_not_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    torch.save({"a": torch.zeros(2)}, path, pickle_protocol=4)
    with pytest.warns(UserWarning, match="protocol 4"), pytest.raises(pickle.UnpicklingError, match="operand 149"):
        torch.load(path, weights_only=True)
    with pytest.raises(FormatError, match="not an opcode that torch"):
        read_pickled(*near(path))
    with open_ranges(*near(path), ReadBudget()) as readable:
        check_pickle(readable)


def resave(path: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipFile], None], **how: Any) -> None:
    """Write the zip file again with Python's own writer, changed."""
    whole = path.with_suffix(".whole")
    path.rename(whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", **how) as new:
        change(old, new)


def test_data_that_is_not_where_the_directory_has_it_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    torch.save({"a": torch.ones(3)}, path)
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("adapter_model/data/0").header_offset
    data = bytearray(path.read_bytes())
    data[at + 30] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match="another name in its local header"):
        read_pickled(*near(path))


def test_what_a_trainer_leaves_is_no_alarm(tmp_path: Path) -> None:
    from transformers import TrainingArguments

    model = torch.nn.Linear(4, 4)
    optimizers = {
        "adamw": torch.optim.AdamW(model.parameters(), amsgrad=True),
        "sgd": torch.optim.SGD(model.parameters(), momentum=0.9),
        "adafactor": torch.optim.Adafactor(model.parameters()),
        "lbfgs": torch.optim.LBFGS(model.parameters()),
    }
    for name, optimizer in optimizers.items():
        optimizer.step(lambda: _backward(model))
        torch.save(optimizer.state_dict(), tmp_path / f"{name}.pt")
    adamw = optimizers["adamw"]
    schedulers = {
        "steps": torch.optim.lr_scheduler.MultiStepLR(adamw, [1, 2, 2]),
        "lambda": torch.optim.lr_scheduler.LambdaLR(adamw, lambda epoch: 1.0 / (1 + epoch)),
        "cosine": torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(adamw, 3),
        "one": torch.optim.lr_scheduler.OneCycleLR(adamw, 0.1, 5),
        "plateau": torch.optim.lr_scheduler.ReduceLROnPlateau(adamw),
    }
    for name, scheduler in schedulers.items():
        torch.save(scheduler.state_dict(), tmp_path / f"scheduler-{name}.pt")
    states = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
    states["cuda"] = [torch.get_rng_state()]
    states["generator"] = np.random.default_rng(0).bit_generator.state
    states["numbers"] = (np.float32(1.5), np.int64(3), np.array([1.0, 2.0]), {1, 2}, frozenset({3}), b"raw", 1j)
    torch.save(states, tmp_path / "rng_state.pth")
    torch.save(TrainingArguments("out", use_cpu=True, report_to=[]), tmp_path / "training_args.bin")
    for protocol in (2, 4, 5):
        torch.save(states, tmp_path / f"rng_state_{protocol}.pth", pickle_protocol=protocol)
    torch.save(states, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "nested.pt").write_bytes((tmp_path / "adamw.pt").read_bytes())

    files = files_at(tmp_path)
    sound = dict.fromkeys([file.path for file in files], "")
    assert len(sound) == 16
    assert scan_pickles(files, files) == (sound, "")


def _backward(model: torch.nn.Linear) -> float:
    model.zero_grad()
    loss = model(torch.ones(1, 4)).sum()
    loss.backward()
    return float(loss.detach())


def test_arguments_of_trainers_are_data_only_beside_the_weights(tmp_path: Path) -> None:
    from transformers import TrainingArguments

    torch.save(TrainingArguments("out", use_cpu=True, report_to=[]), tmp_path / "adapter_model.bin")
    with pytest.raises(UnsafePickle, match=r"transformers\.training_args"):
        read_pickled(*near(tmp_path / "adapter_model.bin"))


def test_a_torchscript_program_is_named(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    torch.save({"a": torch.ones(3)}, path)

    def change(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("adapter_model/code/__torch__.py", "def forward(self): ...")

    resave(path, change)
    with pytest.raises(FormatError, match="TorchScript program"):
        read_pickled(*near(path))
