"""Whatever the files are like, what is loaded into a slot is what reading and copying would have put there."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.base.base_model import BaseModule
from lora_cli.errors import Corrupt, MachineError, Refused
from lora_cli.runtime.adapter_loader import load_into
from lora_cli.runtime.adapter_weights import read_weights
from lora_cli.runtime.composable import scalings
from lora_cli.runtime.lora_slots import Slots
from tests.making import HIDDEN, Q_PROJ, VOCAB, llama_modules, write_adapter
from tests.runtime.reading import LLAMA, read
from tests.runtime.tiny import put

A, B = f"base_model.model.{Q_PROJ}.lora_A.weight", f"base_model.model.{Q_PROJ}.lora_B.weight"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def slots(dtype: torch.dtype = torch.float32, max_lora_rank: int = 32) -> Slots:
    return Slots(LLAMA.modules, 2, max_lora_rank, dtype=dtype)


def loaded(directory: Path, into: Slots) -> int:
    adapter = read(directory)
    return load_into(into, directory, adapter, scalings(adapter, LLAMA))


def copied(directory: Path, into: Slots) -> int:
    adapter = read(directory)
    return put(into, read_weights(directory, adapter, scalings(adapter, LLAMA)))


def same(directory: Path, dtype: torch.dtype = torch.float32) -> bool:
    """Whether both ways fill the whole slot alike, scalings included."""
    straight, oracle = slots(dtype), slots(dtype)
    mine, theirs = loaded(directory, straight), copied(directory, oracle)
    return mine == theirs and equal(straight, oracle)


def equal(one: Slots, other: Slots) -> bool:
    """All that is in them, zeros and scalings included."""
    scalings_too = (torch.equal(stack.scaling, other.stacks[path].scaling) for path, stack in one.stacks.items())
    return torch.equal(one.storage, other.storage) and all(scalings_too)


@pytest.mark.parametrize("of_slots", DTYPES)
@pytest.mark.parametrize("of_file", DTYPES)
def test_every_dtype_goes_into_every_other(of_file: str, of_slots: str, tmp_path: Path) -> None:
    write_adapter(tmp_path, modules=llama_modules(), dtype=of_file, r=5, lora_alpha=7)
    assert same(tmp_path, DTYPES[of_slots])


@given(st.integers(1, 32), st.lists(st.sampled_from(sorted(llama_modules())), min_size=1, unique=True), st.data())
def test_any_modules_at_any_ranks_in_any_order(r: int, paths: list[str], data: st.DataObject) -> None:
    ranks = {path: data.draw(st.integers(1, 32)) for path in paths if data.draw(st.booleans())}
    config = {"rank_pattern": {f"^{path}$": rank for path, rank in ranks.items()}}
    folder = made(paths, r, ranks, config)
    assert same(folder)


def made(paths: list[str], r: int, ranks: Mapping[str, int], config: Mapping[str, Any]) -> Path:
    import tempfile

    folder = Path(tempfile.mkdtemp())
    return write_adapter(
        folder, modules={path: llama_modules()[path] for path in paths}, r=r, ranks=ranks, config=config
    )


def test_a_pickles_factors_too(tmp_path: Path) -> None:
    write_adapter(tmp_path).joinpath("adapter_model.safetensors").unlink()
    shared = torch.randn(2 * HIDDEN, 4, generator=torch.Generator().manual_seed(0))
    torch.save({A: shared[:HIDDEN].view(4, HIDDEN), B: shared[HIDDEN:]}, tmp_path / "adapter_model.bin")
    assert same(tmp_path)


def test_an_embeddings_factors_too(tmp_path: Path) -> None:
    name = "base_model.model.model.embed_tokens.lora_embedding_"
    factors = {f"{name}A": np.ones((4, VOCAB), np.float32), f"{name}B": np.ones((HIDDEN, 4), np.float32)}
    write_adapter(tmp_path, modules={}, tensors=factors, config={"target_modules": ["embed_tokens"]})
    assert same(tmp_path)


@pytest.mark.parametrize(("side", "name"), [("lora_A", A), ("lora_B", B)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_name_and_leaves_the_slot(
    side: str, name: str, value: float, tmp_path: Path
) -> None:
    factor = np.ones((4, HIDDEN) if side == "lora_A" else (HIDDEN, 4), np.float32)
    factor[1, 2] = value
    held = slots()
    with pytest.raises(Refused, match=f"{side}.weight contains NaN or Inf in float32"):
        loaded(write_adapter(tmp_path / "bad", tensors={name: factor}), held)
    assert held.used() == ()
    sound = write_adapter(tmp_path / "sound", r=2)
    fresh = slots()
    assert loaded(sound, held) == copied(sound, fresh)
    assert equal(held, fresh)


def test_a_file_that_was_cut_is_corrupt_and_one_that_is_gone_cannot_be_read(tmp_path: Path) -> None:
    write_adapter(tmp_path, modules=llama_modules())
    adapter, held = read(tmp_path), slots()
    scaling = scalings(adapter, LLAMA)
    file = tmp_path / "adapter_model.safetensors"
    os.truncate(file, file.stat().st_size - 5)
    with pytest.raises(Corrupt, match="ends 5 bytes before the end given in its header"):
        load_into(held, tmp_path, adapter, scaling)
    file.unlink()
    with pytest.raises(MachineError, match="cannot read"):
        load_into(held, tmp_path, adapter, scaling)
    assert held.used() == ()


def test_what_the_slots_do_not_take_is_refused_before_a_byte_is_read(tmp_path: Path) -> None:
    write_adapter(tmp_path, r=16)
    adapter = read(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(Refused, match="has rank 16, above the maximum rank of a slot"):
        load_into(slots(max_lora_rank=8), tmp_path, adapter, scalings(adapter, LLAMA))
    other = Slots({Q_PROJ: BaseModule(HIDDEN, HIDDEN + 1)}, 1, 16)
    with pytest.raises(Refused, match="maps 64 to 64, but the base's maps 64 to 65"):
        load_into(other, tmp_path, adapter, scalings(adapter, LLAMA))
