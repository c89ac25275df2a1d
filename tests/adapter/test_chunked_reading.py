"""The values of tensors that lie apart, in another order, or in bytes that others share."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.adapter import values as reading
from lora_cli.adapter.reading import read_adapter
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.adapter.values import TensorStats, read_pieces, scan_values
from lora_cli.sources.files import files_at
from tests.adapter.remote import remote
from tests.making import Q_PROJ, lora_config

A, B = f"base_model.model.{Q_PROJ}.lora_A.weight", f"base_model.model.{Q_PROJ}.lora_B.weight"


def write(directory: Path, a: torch.Tensor, b: torch.Tensor, *, legacy: bool = False) -> Path:
    torch.save({A: a, B: b}, directory / "adapter_model.bin", _use_new_zipfile_serialization=not legacy)
    (directory / "adapter_config.json").write_text(json.dumps(lora_config([Q_PROJ])))
    return directory


def scan(directory: Path) -> dict[str, TensorStats]:
    files = files_at(directory)
    return scan_values(files, read_adapter(files, "sql"))


def holed(rows: int, columns: int, *, every: int = 2) -> torch.Tensor:
    """A matrix of ones, of which the storage has NaN between the columns."""
    storage = torch.full((rows, columns * every), float("nan"))
    storage[:, ::every] = 1
    return storage[:, ::every]


@pytest.mark.parametrize("legacy", [False, True])
def test_what_lies_between_the_elements_is_not_the_tensors_own(tmp_path: Path, legacy: bool) -> None:
    stats = scan(write(tmp_path, holed(4, 64), holed(64, 4, every=3).t().t(), legacy=legacy))
    assert stats == {A: TensorStats(nonfinite=False, zero=False), B: TensorStats(nonfinite=False, zero=False)}
    magnitude = stats[A].magnitude
    assert magnitude is not None
    assert round(magnitude.norm, 6) == 16.0


@pytest.mark.parametrize("at", [(0, 0), (3, 63), (1, 17)])
def test_one_nan_is_found_wherever_it_lies(tmp_path: Path, at: tuple[int, int]) -> None:
    a, b = holed(4, 64), torch.zeros(4, 64).t()
    a[at] = float("nan")
    assert scan(write(tmp_path, a, b)) == {A: TensorStats(True, False), B: TensorStats(False, True)}


def test_two_tensors_may_share_their_bytes(tmp_path: Path) -> None:
    shared = torch.zeros(8, 64)
    shared[6, 3] = 1
    stats = scan(write(tmp_path, shared[:4], shared[2:].view(-1)[:256].view(64, 4)))
    assert (stats[A].zero, stats[B].zero) == (True, True)
    stats = scan(write(tmp_path, shared[3:7], shared.view(-1)[256:512].view(64, 4)))
    assert (stats[A].zero, stats[B].zero) == (False, False)


def test_a_large_tensor_that_lies_apart_is_read_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "GATHERED", 100)
    a = holed(40, 64, every=5).t()
    a[63, 39] = float("inf")
    assert scan(write(tmp_path, a, holed(64, 4)))[A] == TensorStats(nonfinite=True, zero=False)


@given(st.data())
def test_each_element_of_a_view_comes_once(data: st.DataObject) -> None:
    whole = torch.arange(1, 121, dtype=torch.int32).reshape(2, 3, 4, 5)
    order = data.draw(st.permutations(range(4)))
    view = whole.permute(*order)
    for axis in range(4):
        size = view.shape[axis]
        first = data.draw(st.integers(0, size - 1))
        view = view.narrow(axis, first, data.draw(st.integers(1, size - first)))
        view = view[(slice(None),) * axis + (slice(None, None, data.draw(st.integers(1, 3))),)]
    start = 4 * int(view.storage_offset())
    last = sum((size - 1) * stride for size, stride in zip(view.shape, view.stride(), strict=True))
    strides = () if view.is_contiguous() else view.stride()
    info = TensorInfo("x", "I32", tuple(view.shape), start, start + 4 * (1 + int(last)), "f", strides)
    _, files = remote({"f": whole.numpy().tobytes()})

    found = b"".join(piece for _, piece in read_pieces(files, next(iter(files)), [info]))

    numbers = torch.frombuffer(bytearray(found), dtype=torch.int32)
    assert sorted(numbers.tolist()) == sorted(view.reshape(-1).tolist())
