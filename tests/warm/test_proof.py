"""The proof holds for what is right and fails for every way in which a slot can be wrong."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from lora_cli.base.base_model import BaseModel, BaseModule
from lora_cli.results import ModuleProof, Proof
from lora_cli.warm.base_weights import SyntheticWeights
from lora_cli.warm.proof import Outputs, prove, tolerances, why_wrong
from lora_cli.warm.weights import LoadedAdapter
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


@pytest.mark.parametrize("left", [1.0, 1e-2, 1e-3])
@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_a_wrong_scale_of_factors_that_nearly_cancel_is_found(left: float, factor: float) -> None:
    adapter = cancelling(4, left)
    assert fails_everywhere(proved(scaled(put(adapter), factor), adapter))


@pytest.mark.parametrize("factor", [0.0, 0.7, 1.4])
def test_a_wrong_scale_of_a_wide_module_is_found_in_bfloat16(factor: float) -> None:
    adapter = weights(r=64, modules=WIDE)
    held = scaled(put(adapter, torch.bfloat16), factor)
    assert fails_everywhere(prove(held, adapter, SyntheticWeights(replace(BASE, modules=WIDE))))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_another_adapters_slot_is_found(dtype: torch.dtype, size: float) -> None:
    assert fails_everywhere(proved(put(weights(size=size, seed=7), dtype), weights(size=size)))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["a", "b"])
def test_one_value_that_is_not_finite_is_found(path: str, value: float, side: str) -> None:
    adapter = weights()
    held = put(adapter)
    getattr(held.modules[path], side).view(-1)[13] = value
    failed = {module.module: module.reason for module in proved(held, adapter).modules if module.reason}
    assert list(failed) == [path]
    assert "NaN or Inf" in failed[path]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_scaling_beyond_float32_fails_the_proof_and_not_the_process(dtype: torch.dtype) -> None:
    adapter = weights(scaling=1e300)
    proof = proved(put(adapter, dtype), adapter)
    assert proof.worst is not None
    assert proof.worst.reason == "the composed output is not finite"


@pytest.mark.parametrize("path", PATHS)
def test_one_wrong_row_of_b_is_found(path: str) -> None:
    adapter = weights()
    held = put(adapter)
    held.modules[path].b[2] *= -1
    assert [module.module for module in proved(held, adapter).modules if module.reason] == [path]


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


def test_no_modules_prove_nothing() -> None:
    assert not proved(put({}), {}).holds


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


def test_the_tolerance_grows_with_the_dtypes_rounding_and_the_length_of_the_reduction() -> None:
    in_order: list[Callable[[], tuple[float, float, float]]] = [
        lambda: tolerances(torch.float64, 64, 8),
        lambda: tolerances(torch.float32, 64, 8),
        lambda: tolerances(torch.float32, 4096, 8),
        lambda: tolerances(torch.float16, 4096, 8),
        lambda: tolerances(torch.bfloat16, 4096, 8),
    ]
    base, inner, outer = zip(*(one() for one in in_order), strict=True)
    assert list(base) == sorted(base)
    assert list(inner) == sorted(inner)
    assert list(outer) == sorted(outer)
    assert base[1] == pytest.approx(4 * 2**-24 * 8 + 2**-24)


def test_the_same_seed_gives_the_same_proof_and_another_seed_another() -> None:
    adapter = weights()
    held = put(adapter)
    first, again = proved(held, adapter), proved(held, adapter)
    other = prove(held, adapter, SyntheticWeights(BASE), seed=1)
    assert first == again
    assert replace(first, modules=()) == replace(other, modules=())
    assert first.modules != other.modules


def sound() -> Outputs:
    """One token, two outputs: base 1 and 2, LoRA adds 3 and 4."""
    base, delta = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
    return Outputs(base, base + delta, (base + delta).double(), delta.double(), delta.double(), 4e-6, base_kept=True)


@pytest.mark.parametrize(
    ("change", "numbers", "said"),
    [
        ({}, {}, ""),
        ({}, {"error": 2e-6}, "differs from the merged weights by 2.0e-06 of their size; tolerance 1.0e-06"),
        ({"delta": torch.tensor([[3.0, 4.1]])}, {}, "the LoRA path differs by 1.0e-01 at a size of 4.0e+00"),
        ({}, {"moved": 0.0}, "changes nothing"),
        ({"base_kept": False}, {}, "the output of a token without an adapter differs from the base's"),
    ],
)
def test_each_check_fails_on_its_own(change: Mapping[str, Any], numbers: Mapping[str, float], said: str) -> None:
    proof = replace(ModuleProof(LINEAR, error=5e-7, moved=0.5, tolerance=1e-6), **numbers)  # type: ignore[arg-type]
    reason = why_wrong(proof, replace(sound(), **change))
    assert reason.startswith(said)
    assert bool(reason) == bool(said)


def fails_everywhere(proof: Proof) -> bool:
    return bool(proof.modules) and all(module.reason for module in proof.modules)


def test_synthetic_weights_have_the_bases_shapes_and_an_even_scale() -> None:
    made = SyntheticWeights(BASE)
    assert made.weight(LINEAR).shape == (40, 24)
    assert made.weight(CONV).shape == (48, 16)
    assert made.weight(EMBEDDING).shape == (100, 24)
    assert float(made.weight(LINEAR).std()) == pytest.approx(24**-0.5, rel=0.1)
    assert torch.equal(made.weight(LINEAR), SyntheticWeights(BASE).weight(LINEAR))
    assert not torch.equal(made.weight(LINEAR), SyntheticWeights(BASE, seed=1).weight(LINEAR))
    assert MODULES.keys() == BASE.modules.keys()
