"""Two adapters compared: what is told of their updates, beside the dense ones, and the word for all of it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora_cli.core.comparison import ROUNDOFF
from lora_cli.core.safetensors import TORCH_NAMES
from tests.core.peft_cases import CASES
from tests.making import REMOVE, Raw, llama_modules, write_adapter
from tests.reading.pairs import (
    FIELDS,
    PREFIX,
    Q,
    Tensors,
    changed,
    compared,
    each,
    from_another_seed,
    in_another_basis,
    padded,
    same,
    trained_on,
)
from tests.reading.peft_updates import written_by_peft

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("change", "fields", "word", "said"),
    [
        (same, {}, "equal", "all factors are bit-identical"),
        (each(in_another_basis), {}, "equal", "no update differs by more than the rounding"),
        (each(padded), {"r": 8, "lora_alpha": 24}, "equal", "no update differs by more than the rounding"),
        (same, {"lora_alpha": 24}, "scaled", "every update of B is 2 times that of A"),
        (same, {"lora_alpha": -12}, "scaled", "every update of B is -1 times that of A"),
        (each(lambda a, b: (a, 1.7 * b)), {}, "scaled", "every update of B is 1.7 times that of A"),
        (each(trained_on), {}, "related", "a cosine of 0.99"),
        (each(from_another_seed), {}, "unrelated", "(related from 0.5 up)"),
        (same, {"alpha_pattern": {"q_proj": 6}}, "scaled", "0.5 to 1 times, varying by module"),
        (each(lambda a, b: (a, 0 * b)), {}, "unrelated", "the one update is zero"),
    ],
)
def test_the_word_follows_from_the_updates_alone(
    change: Callable[[Tensors], Tensors],
    fields: Mapping[str, Any],
    word: str,
    said: str,
    dtype: torch.dtype,
    tmp_path: Path,
) -> None:
    options = {**FIELDS, "use_rslora": False}
    written_by_peft(tmp_path / "a", "llama", options, dtype=dtype)
    found = compared(tmp_path / "a", changed(tmp_path / "a", tmp_path / "b", change, **fields))
    assert (found.word, found.reason) == (word, found.reason)
    assert said in found.reason


@pytest.mark.parametrize(
    "name", ["llama patterns", "embeddings with rslora", "mixtral patterns", "experts with patterns", "KaSA", "BD-LoRA"]
)
def test_cosine_and_difference_are_those_of_the_dense_updates(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    options = {"r": 4, "lora_alpha": 12, **case.options}
    one = written_by_peft(tmp_path / "a", case.family, options, base=case.base)
    other = written_by_peft(tmp_path / "b", case.family, {**options, "lora_alpha": 20}, base=case.base, seed=1)
    found = compared(tmp_path / "a", tmp_path / "b")
    assert {module.module for module in found.modules} == one.keys()
    for module in found.modules:
        distance, x, y = module.update, one[module.module], other[module.module]
        assert distance is not None
        size = float(np.linalg.norm(x))
        assert distance.norm == pytest.approx(size, rel=1e-6)
        assert distance.cosine == pytest.approx(float((x * y).sum() / size / np.linalg.norm(y)), abs=1e-6)
        assert distance.difference == pytest.approx(float(np.linalg.norm(y - x)) / size, rel=1e-6)
        assert distance.factor == pytest.approx(float((x * y).sum()) / size**2, abs=1e-6)
        rest = float(np.linalg.norm(y - distance.factor * x))
        assert distance.residual == pytest.approx(rest, rel=1e-6)
    whole, theirs = (np.concatenate([update[module].ravel() for module in one]) for update in (one, other))
    assert found.distance.cosine == pytest.approx(
        float(whole @ theirs / np.linalg.norm(whole) / np.linalg.norm(theirs)), abs=1e-6
    )
    assert found.distance.difference == pytest.approx(
        float(np.linalg.norm(theirs - whole) / np.linalg.norm(whole)), rel=1e-6
    )


def test_experts_scaled_alike_are_scaled_and_equal_where_nothing_changed(tmp_path: Path) -> None:
    case = CASES["experts with patterns"]
    written_by_peft(tmp_path / "a", case.family, {"r": 4, "lora_alpha": 12, **case.options}, dtype=torch.bfloat16)
    assert compared(tmp_path / "a", tmp_path / "a").word == "equal"
    tripled = changed(tmp_path / "a", tmp_path / "b", each(lambda a, b: (a, 3 * b)))
    found = compared(tmp_path / "a", tripled)
    assert found.word == "scaled"
    assert found.distance.factor == pytest.approx(3.0, rel=1e-3)


def test_saved_as_bfloat16_an_adapter_is_equal_and_its_differences_are_those_of_rounding(tmp_path: Path) -> None:
    written_by_peft(tmp_path / "a", "llama", FIELDS)
    narrow = changed(
        tmp_path / "a", tmp_path / "b", lambda tensors: {name: one.bfloat16() for name, one in tensors.items()}
    )
    found = compared(tmp_path / "a", narrow)
    assert found.word == "equal"
    assert "float32 and bfloat16" in found.reason
    for module in found.modules:
        assert module.distance.difference is not None
        assert module.distance.rounding is not None
        assert 1e-4 < module.distance.difference < 0.5 * module.distance.rounding
        assert module.differing == ("dtype",)


def test_a_change_that_rounding_does_not_explain_is_no_equal_one(tmp_path: Path) -> None:
    written_by_peft(tmp_path / "a", "llama", FIELDS)
    nudged = changed(tmp_path / "a", tmp_path / "b", each(lambda a, b: (a, b * (1 + 1e-5 * torch.randn_like(b)))))
    found = compared(tmp_path / "a", nudged)
    assert found.word == "related"
    assert found.distance.difference == pytest.approx(1e-5, rel=0.1)


def test_a_change_of_a_few_units_in_the_last_place_is_no_rounding(tmp_path: Path) -> None:
    written_by_peft(tmp_path / "a", "llama", FIELDS, dtype=torch.bfloat16)
    nudged = changed(tmp_path / "a", tmp_path / "b", each(lambda a, b: (a, b * (1 + 0.02 * torch.randn_like(b)))))
    assert compared(tmp_path / "a", nudged).word == "related"


def test_tensors_beside_the_factors_count(tmp_path: Path) -> None:
    written_by_peft(tmp_path / "a", "llama", {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]})

    def head(tensors: Tensors) -> Tensors:
        return {name: 1.5 * one if "lm_head" in name else one for name, one in tensors.items()}

    found = compared(tmp_path / "a", changed(tmp_path / "a", tmp_path / "b", head))
    assert found.word == "related"
    assert "the common updates are equal; but 1 tensor other than the factors differs" in found.reason


@pytest.mark.parametrize(("a", "b", "difference"), [(0, 1, None), (1, 0, 1.0), (1, 1.5, 0.5)])
def test_a_difference_is_a_share_of_a_unless_a_is_zero(
    a: float, b: float, difference: float | None, tmp_path: Path
) -> None:
    written_by_peft(tmp_path / "x", "llama", {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]})

    def head(factor: float) -> Callable[[Tensors], Tensors]:
        return lambda tensors: {name: factor * one if "lm_head" in name else one for name, one in tensors.items()}

    one, other = (changed(tmp_path / "x", tmp_path / name, head(factor)) for name, factor in (("a", a), ("b", b)))
    found = compared(one, other)
    assert found.tensors[0].reason == ""
    assert found.tensors[0].difference == (difference if difference is None else pytest.approx(difference))


def test_multiples_beside_equal_updates_and_unknown_ones_are_still_multiples(tmp_path: Path) -> None:
    written_by_peft(
        tmp_path / "a", "llama", {"r": 4, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]}
    )
    factors = {"lm_head": 1.5, "layers.0.self_attn.q_proj.lora_B": 2, "layers.1.self_attn.q_proj.lora_B": np.nan}

    def mixed(tensors: Tensors) -> Tensors:
        return {
            name: one * next((f for part, f in factors.items() if part in name), 1) for name, one in tensors.items()
        }

    found = compared(tmp_path / "a", changed(tmp_path / "a", tmp_path / "b", mixed))
    assert {module.word for module in found.modules} == {"equal", "scaled", "unknown"}
    assert found.word == "related"
    assert "the common updates are multiples; but 1 tensor other than the factors differs" in found.reason
    (tensor,) = found.tensors
    assert (tensor.part, tensor.equal) == ("saved", False)
    assert tensor.difference == pytest.approx(0.5)

    rounded = changed(
        tmp_path / "a",
        tmp_path / "c",
        lambda tensors: {name: one.half() if "lm_head" in name else one for name, one in tensors.items()},
    )
    assert compared(tmp_path / "a", rounded).word == "equal"
    without = changed(tmp_path / "a", tmp_path / "d", lambda t: {n: one for n, one in t.items() if "lm_head" not in n})
    found = compared(tmp_path / "a", without)
    assert [tensor.within for tensor in found.tensors] == ["a"]
    assert found.word == "related"


def test_modules_of_one_side_are_named_and_count_as_far_as_they_have_an_update(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", modules=llama_modules())
    fewer = changed(tmp_path / "a", tmp_path / "b", lambda t: {n: one for n, one in t.items() if "up_proj" not in n})
    found = compared(tmp_path / "a", fewer)
    assert [module.module for module in found.only_a] == [f"model.layers.{i}.mlp.up_proj" for i in range(2)]
    assert found.word == "related"
    assert "2 modules with an update are only in A" in found.reason
    assert found.distance.cosine is not None
    assert found.distance.cosine < 0.97

    zero = changed(
        tmp_path / "a", tmp_path / "c", lambda t: {n: 0 * one if "up_proj.lora_B" in n else one for n, one in t.items()}
    )
    assert compared(fewer, zero).word == "equal"


def test_single_modules_that_are_equal_make_two_adapters_kin_and_zeros_do_not(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", modules=llama_modules(["q_proj", "up_proj"]))

    def but_one(scale: float) -> Callable[[Tensors], Tensors]:
        def change(tensors: Tensors) -> Tensors:
            torch.manual_seed(3)
            others = {name: 9 * torch.randn_like(one) for name, one in tensors.items() if "layers.0.mlp" not in name}
            return {name: scale * one for name, one in tensors.items()} | others

        return change

    found = compared(tmp_path / "a", changed(tmp_path / "a", tmp_path / "b", but_one(1.0)))
    assert found.word == "related"
    assert "1 module has the same update, or a multiple of it, although all updates together" in found.reason
    zero = changed(tmp_path / "a", tmp_path / "c", but_one(0.0))
    assert compared(zero, changed(zero, tmp_path / "d", each(lambda a, b: (a.flip(1), b.flip(0))))).word == "unrelated"


def test_nothing_in_common_is_unrelated(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a")
    write_adapter(tmp_path / "b", modules={"model.layers.5.mlp.up_proj": (64, 128)})
    found = compared(tmp_path / "a", tmp_path / "b")
    assert (found.word, found.reason) == ("unrelated", "no module is in both (1 module in A, 1 in B)")
    write_adapter(tmp_path / "c", modules={Q: (32, 64)})
    found = compared(tmp_path / "a", tmp_path / "c")
    assert (found.word, found.reason) == ("unrelated", "no module has the same shape in both")
    assert found.modules[0].reason == "it is [64, 64] in A and [64, 32] in B"
    assert found.modules[0].differing == ("shape",)


def test_the_same_modules_in_stacks_of_other_names_are_said_to_be_so(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", modules=llama_modules())
    nested = changed(
        tmp_path / "a",
        tmp_path / "b",
        lambda tensors: {
            name.replace("model.layers", "model.language_model.layers"): one for name, one in tensors.items()
        },
    )
    found = compared(tmp_path / "a", nested)
    assert found.word == "unrelated"
    assert "A has its layers in model.layers, B in model.language_model.layers" in found.reason


def test_what_is_not_finite_is_compared_bit_by_bit_or_not_at_all(tmp_path: Path) -> None:
    holed = np.ones((4, 64), "f4")
    holed[0, 0] = np.nan
    name = f"{PREFIX}{Q}.lora_A.weight"
    modules = llama_modules(["q_proj"])
    write_adapter(tmp_path / "a", modules=modules, tensors={name: holed})
    assert compared(tmp_path / "a", tmp_path / "a").word == "equal"
    write_adapter(tmp_path / "b", modules=modules)
    found = compared(tmp_path / "a", tmp_path / "b")
    assert found.word == "unknown"
    assert "A: lora_A contains NaN or infinity" in found.reason
    write_adapter(tmp_path / "c", modules=modules, tensors={name: Raw("I32", (4, 64), bytes(1024))})
    assert "I32 is not a float type" in compared(tmp_path / "b", tmp_path / "c").reason
    write_adapter(tmp_path / "d", modules=modules, drop=[name])
    assert "B: lora_A is missing" in compared(tmp_path / "b", tmp_path / "d").reason


def test_the_distance_of_two_adapters_is_that_of_the_modules_that_are_finite(tmp_path: Path) -> None:
    holed = np.full((4, 64), np.inf, "f4")
    modules = llama_modules(["q_proj", "v_proj"])
    tensors = {f"{PREFIX}{Q}.lora_A.weight": holed}
    write_adapter(tmp_path / "a", modules=modules, tensors=tensors)
    write_adapter(tmp_path / "b", modules=modules, tensors=tensors, config={"alpha_pattern": {"v_proj": 24}})
    found = compared(tmp_path / "a", tmp_path / "b")
    assert found.distance.factor is not None
    assert np.isfinite(found.distance.factor)
    assert found.distance.factor > 1
    assert found.word != "unknown"


def test_without_values_configs_and_headers_are_compared_all_the_same(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a")
    write_adapter(tmp_path / "b", r=8, config={"use_rslora": True})
    found = compared(tmp_path / "a", tmp_path / "b", "of B, its values are far away")
    assert found.word == "unknown"
    assert "far away" in found.reason
    assert found.modules[0].differing == ("rank", "scaling")
    assert {change.field for change in found.fields} == {"r", "use_rslora"}
    assert found.distance.norm_a is None


def test_equal_factors_whose_configs_mean_something_else_are_told_with_that(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a")
    write_adapter(
        tmp_path / "b", config={"use_dora": True, "base_model_name_or_path": "another/base", "lora_dropout": 0.5}
    )
    found = compared(tmp_path / "a", tmp_path / "b")
    assert found.word == "equal"
    assert found.reason.endswith("the configs still differ in use_dora, base_model_name_or_path")


def test_names_and_dtypes_of_pickles_and_other_dialects_are_the_same_modules(tmp_path: Path) -> None:
    from tests.reading.test_spectra import pickle_weights

    write_adapter(tmp_path / "a", modules=llama_modules())
    write_adapter(tmp_path / "b", modules=llama_modules(), prefix="", config={"peft_version": REMOVE})
    pickle_weights(tmp_path / "b")
    assert compared(tmp_path / "a", tmp_path / "b").word == "equal"


def test_the_roundoff_of_a_dtype_is_half_of_what_torch_calls_its_epsilon() -> None:
    assert {dtype: torch.finfo(getattr(torch, TORCH_NAMES[dtype])).eps / 2 for dtype in ROUNDOFF} == ROUNDOFF
