"""The proof holds for what is right and fails for every way in which a slot can be wrong."""

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from lora_cli.base.base_model import BaseModel, BaseModule
from lora_cli.results import Proof
from lora_cli.warm import proof as proving
from lora_cli.warm.base_weights import SyntheticWeights
from lora_cli.warm.proof import prove
from lora_cli.warm.weights import LoadedAdapter, add_lora
from tests.warm.tiny import BASE, CONV, EMBEDDING, LINEAR, MODULES, Weights, put, weights

DTYPES = [torch.float32, torch.bfloat16, torch.float64]
PATHS = (LINEAR, CONV, EMBEDDING)
SIZES = [1.0, 1e-3, 1e-5]


def proved(held: LoadedAdapter, adapter: Weights) -> Proof:
    return prove(held, adapter, SyntheticWeights(BASE))


def scaled(held: LoadedAdapter, factor: float) -> LoadedAdapter:
    modules = {path: replace(one, scaling=one.scaling * factor) for path, one in held.modules.items()}
    return replace(held, modules=modules)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_a_sound_adapter_is_proved_in_every_dtype_however_small_its_effect(dtype: torch.dtype, size: float) -> None:
    adapter = weights(size=size, r=6)
    proof = proved(put(adapter, dtype), adapter)
    assert proof.holds, proof.worst
    assert [module.module for module in proof.modules] == list(PATHS)
    assert all(module.moved > 0 and module.error <= module.tolerance for module in proof.modules)
    assert (proof.weights, proof.dtype) == ("synthetic", str(dtype).removeprefix("torch."))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0, math.sqrt(2)])
def test_a_wrong_scale_is_found_in_every_dtype_however_small_the_effect(
    dtype: torch.dtype, size: float, factor: float
) -> None:
    adapter = weights(size=size)
    assert fails_everywhere(proved(scaled(put(adapter, dtype), factor), adapter))


def cancelling(r: int, left: float, modules: Mapping[str, BaseModule] = MODULES, seed: int = 0) -> Weights:
    """An adapter whose second half undoes all of its first half but for ``left`` of it."""
    half = weights(r=r, modules=modules, seed=seed)
    return {
        path: replace(one, a=torch.cat([one.a, one.a]), b=torch.cat([one.b, one.b * (left - 1)], 1))
        for path, one in half.items()
    }


WIDE = {"proj": BaseModule(4096, 512)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("left", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize(("modules", "r"), [(MODULES, 4), (WIDE, 32)], ids=["tiny", "wide"])
def test_a_sound_adapter_whose_factors_nearly_cancel_is_proved(
    dtype: torch.dtype, left: float, modules: Mapping[str, BaseModule], r: int
) -> None:
    base = replace(BASE, modules=modules)
    for seed in range(3):
        adapter = cancelling(r, left, modules, seed)
        proof = prove(put(adapter, dtype), adapter, SyntheticWeights(base), seed=seed)
        assert proof.holds, proof.worst


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_another_adapters_slot_is_found(dtype: torch.dtype, size: float) -> None:
    assert fails_everywhere(proved(put(weights(size=size, seed=7), dtype), weights(size=size)))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("side", "value", "said"),
    [
        ("a", float("nan"), "NaN or Inf"),
        ("b", float("inf"), "NaN or Inf"),
        ("b", 9.0, "differs from"),
    ],
)
def test_one_wrong_value_is_found(path: str, side: str, value: float, said: str) -> None:
    adapter = weights()
    held = put(adapter)
    getattr(held.modules[path], side).view(-1)[13] = value
    failed = {module.module: module.reason for module in proved(held, adapter).modules if module.reason}
    assert list(failed) == [path]
    assert said in failed[path]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_scaling_beyond_float32_fails_the_proof_and_not_the_process(dtype: torch.dtype) -> None:
    adapter = weights(scaling=1e300)
    proof = proved(put(adapter, dtype), adapter)
    assert proof.worst is not None
    assert proof.worst.reason == "the composed output is not finite"


def test_an_adapter_that_changes_nothing_does_not_hold() -> None:
    adapter = weights(size=0.0)
    proof = proved(put(adapter), adapter)
    assert {module.reason for module in proof.modules} == {"changes nothing: its output is identical to the base's"}


def test_a_module_without_an_update_must_equal_the_base_and_the_others_are_proved() -> None:
    """Encoders that were not trained, and the zeros that a repair adds for an engine."""
    adapter = weights()
    path, one = next(iter(adapter.items()))
    part = {**adapter, path: replace(one, b=torch.zeros_like(one.b))}
    proof = proved(put(part), part)
    assert proof.holds
    assert {module.module for module in proof.modules if not module.moved} == {path}
    wrong = proved(put(adapter), part)
    assert [module.module for module in wrong.modules if module.reason] == [path]


def test_an_embedding_trained_on_three_tokens_only_still_differs_from_the_base() -> None:
    adapter = weights()
    a = adapter[EMBEDDING].a
    a[:, [column for column in range(a.shape[1]) if column not in (5, 50, 99)]] = 0
    proof = proved(put(adapter), adapter)
    assert proof.holds, proof.worst


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("d_in", "d_out", "r"), [(64, 64, 1), (576, 1536, 8), (4096, 512, 64), (14336, 256, 16)])
def test_the_tolerance_leaves_room_above_the_error_but_not_much(
    dtype: torch.dtype, d_in: int, d_out: int, r: int
) -> None:
    modules = {"proj": BaseModule(d_in, d_out)}
    base = BaseModel("wide", "none", modules, 1, d_in)
    errors = []
    for seed in range(3):
        adapter = weights(r=r, seed=seed, modules=modules)
        (module,) = prove(put(adapter, dtype), adapter, SyntheticWeights(base), seed=seed).modules
        assert not module.reason
        errors.append(module.error / module.tolerance)
    assert 0.002 < max(errors) < 0.6


def test_a_token_of_the_base_that_is_changed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = weights()
    monkeypatch.setattr(proving, "add_lora", lambda output, *others: add_lora(output, *others).mul_(1 + 2**-23))
    reasons = [module.reason for module in proved(put(adapter), adapter).modules]
    assert reasons == ["the output of a token without an adapter differs from the base's"] * len(PATHS)


def fails_everywhere(proof: Proof) -> bool:
    return bool(proof.modules) and all(module.reason for module in proof.modules)
