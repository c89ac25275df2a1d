"""Tensors as bits and as numbers, beside torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import Corrupt, FormatError
from lora_cli.reading.adapter import read_adapter
from lora_cli.reading.arrays import load, numbers, rounded
from lora_cli.sources.local import LocalSource
from tests.making import lora_config

KINDS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}
NAME = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def loaded(directory: Path) -> tuple[Any, str]:
    source = LocalSource()
    revision = source.resolve(AdapterRef("file", str(directory)))
    adapter = read_adapter(source, revision, "sql")
    tensor = adapter.tensors[NAME]
    file = revision.file(tensor.file)
    assert file is not None
    return load(source, revision, file, tensor), tensor.dtype


def written(directory: Path, tensor: torch.Tensor) -> Path:
    (directory / "adapter_config.json").write_text(json.dumps(lora_config([])))
    save_file({NAME: tensor}, directory / "adapter_model.safetensors")
    return directory


@pytest.mark.parametrize("dtype", KINDS)
def test_every_float_is_read_as_torch_reads_it(dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensor = (torch.randn(37, 5) * 3).to(KINDS[dtype])
    bits, told = loaded(written(tmp_path, tensor))
    assert told == dtype
    np.testing.assert_array_equal(numbers(bits, dtype), tensor.to(torch.float64).numpy().astype("f8"))


@pytest.mark.parametrize("dtype", [dtype for dtype in KINDS if dtype.startswith("F8")])
def test_all_the_values_of_eight_bits_are_torchs(dtype: str) -> None:
    bits = np.arange(256, dtype="u1")
    theirs = torch.from_numpy(bits.copy()).view(KINDS[dtype]).to(torch.float32).numpy()
    np.testing.assert_array_equal(numbers(bits, dtype), theirs)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_rounding_is_to_the_nearest_as_torchs(dtype: str) -> None:
    torch.manual_seed(1)
    values = torch.cat([torch.randn(10_000), torch.tensor([0.0, -0.0, 1e-40, 3.4e38, 65520.0, float("inf")])])
    theirs = values.to(KINDS[dtype])
    ours = rounded(values.numpy(), dtype)
    assert ours.tobytes() == theirs.contiguous().view(torch.uint8).numpy().tobytes()
    assert np.isnan(numbers(rounded(np.array([np.nan], "f4"), dtype), dtype)).all()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_tensor_of_a_pickle_comes_in_the_order_of_its_rows_whatever_its_strides(tmp_path: Path, legacy: bool) -> None:
    base = torch.arange(60, dtype=torch.float32).reshape(6, 10)
    for tensor in (base.t(), base[:, ::3], base[1:, 2:], base[:1].expand(4, 10)):
        (tmp_path / "adapter_config.json").write_text(json.dumps(lora_config([])))
        torch.save({NAME: tensor}, tmp_path / "adapter_model.bin", _use_new_zipfile_serialization=not legacy)
        bits, dtype = loaded(tmp_path)
        np.testing.assert_array_equal(numbers(bits, dtype), tensor.numpy())


def test_what_is_no_float_is_refused_and_a_short_file_is_corrupt(tmp_path: Path) -> None:
    bits, dtype = loaded(written(tmp_path, torch.ones(2, 2, dtype=torch.int32)))
    with pytest.raises(FormatError, match="no floats"):
        numbers(bits, dtype)

    source = LocalSource()
    revision = source.resolve(AdapterRef("file", str(tmp_path)))
    tensor = read_adapter(source, revision, "sql").tensors[NAME]
    file = revision.file(tensor.file)
    assert file is not None
    beyond = type(tensor)(NAME, "F32", (100, 100), tensor.start, tensor.start + 40_000, tensor.file)
    with pytest.raises(Corrupt, match="end of"):
        load(source, Revision(revision.ref, revision.id, (RemoteFile(file.path, None),)), file, beyond)
