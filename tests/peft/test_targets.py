"""Targets and scales where there is no PEFT to compare with: errors, limits, and what has no tensors yet."""

import math
import time
from typing import Any

import pytest

from lora_cli.adapter.config import LoraConfig, parse_config
from lora_cli.base.base_model import BaseModel, BaseModule
from lora_cli.errors import FormatError
from lora_cli.peft.targets import (
    Scale,
    replicated,
    scales,
    targeted,
    targeted_in,
    targeted_parameters,
    wrapped_parameters,
)
from tests.making import llama_modules

Q0, Q1 = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
BASE = BaseModel(
    name="tiny",
    model_type="llama",
    modules={
        "model.embed_tokens": BaseModule(256, 64, "embedding"),
        **{path: BaseModule(*shape) for path, shape in llama_modules().items()},
        "lm_head": BaseModule(64, 256),
    },
    num_layers=2,
    hidden_size=64,
    tied_embeddings=True,
)


def config(**fields: Any) -> LoraConfig:
    return parse_config(fields)


def scale(some: LoraConfig, module: str) -> Scale:
    return scales(some, [module])[module]


def test_rank_alpha_and_scaling_of_one_module() -> None:
    plain = config(r=8, lora_alpha=16, rank_pattern={"layers.1.self_attn.q_proj": 2}, alpha_pattern={"k_proj": 1})
    assert scale(plain, Q0) == Scale(8, 16, 2.0)
    assert scale(plain, Q1) == Scale(2, 16, 8.0)
    assert scale(config(r=9, lora_alpha=6, use_rslora=True), Q0).scaling == 2.0


def test_of_two_keys_that_match_the_first_counts() -> None:
    assert scale(config(rank_pattern={"q_proj": 2, Q0: 3}), Q0).r == 2
    assert scale(config(rank_pattern={Q0: 3, "q_proj": 2}), Q0).r == 3


def test_scales_of_many_modules_come_in_their_order() -> None:
    found = scales(config(r=4, lora_alpha=8), [Q1, Q0])
    assert list(found.items()) == [(Q1, Scale(4, 8, 2.0)), (Q0, Scale(4, 8, 2.0))]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": "8"}, 'adapter_config.json: r: must be an integer, not a string: "8"'),
        ({"lora_alpha": None}, "adapter_config.json: lora_alpha: must be a number, not null: null"),
        ({"use_rslora": "yes"}, "adapter_config.json: use_rslora: must be a boolean"),
        ({"rank_pattern": {"q_proj": "4"}}, 'adapter_config.json: rank_pattern["q_proj"]: must be an integer'),
        ({"r": 10**400, "use_rslora": True}, "adapter_config.json: r: must fit in a float, not 1000"),
        ({"rank_pattern": {"q_proj": 10**400}}, 'rank_pattern["q_proj"]: must fit in a float, not 1000'),
        ({"r": 0}, f"adapter_config.json: r: the rank must be positive, and is 0 for {Q0}"),
        ({"rank_pattern": {"q_proj": -1}}, f"the rank must be positive, and is -1 for {Q0}"),
        ({"rank_pattern": {"(": 1}}, "adapter_config.json: rank_pattern: '(' is not a regular expression"),
    ],
)
def test_a_scale_is_never_guessed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        scale(config(**fields), Q0)
    assert message in str(caught.value)


def test_a_scale_can_be_zero_or_infinitely_small_but_is_a_number() -> None:
    assert scale(config(lora_alpha=0), Q0).scaling == 0
    assert math.isfinite(scale(config(lora_alpha=1e308, r=1), Q0).scaling)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_modules": ["q_proj", 1]}, "target_modules[1]: must be a string, not an integer"),
        ({"target_modules": "*"}, "target_modules: '*' is not a regular expression"),
        ({"target_modules": "q_proj", "exclude_modules": "("}, "exclude_modules: '(' is not a regular expression"),
        ({"target_modules": [], "modules_to_save": ["("]}, "modules_to_save: '(' is not a regular expression"),
    ],
)
def test_targets_that_cannot_be_read_are_an_error(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        targeted(config(**fields), [Q0])
    assert message in str(caught.value)


def test_without_target_modules_the_model_type_decides() -> None:
    assert targeted(config(), [Q0, "model.layers.0.self_attn.k_proj"], model_type="llama") == {Q0}
    assert targeted(config(), [Q0, "vision.q_proj", "x.language_model.y.q_proj"], model_type="gemma4") == {
        "x.language_model.y.q_proj"
    }
    with pytest.raises(FormatError, match="PEFT has no default for brandnew"):
        targeted(config(), [Q0], model_type="brandnew")
    with pytest.raises(FormatError, match="PEFT has no default for an unknown model type"):
        targeted(config(), [Q0])


def test_target_parameters_alone_target_no_modules() -> None:
    assert targeted(config(target_parameters=["experts.down_proj"]), [Q0]) == frozenset()


def test_all_linear_leaves_out_heads_and_embeddings() -> None:
    linear = [Q0, "lm_head", "embed_out", "score"]
    assert targeted(config(target_modules="all-linear"), linear, linear=linear) == {Q0, "score"}
    assert targeted(config(target_modules="ALL-LINEAR", task_type="SEQ_CLS"), linear, linear=linear) == {Q0}
    assert targeted_in(config(target_modules="all-linear"), BASE) == set(llama_modules())


def test_a_catastrophic_pattern_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_cli.peft.patterns.TIME_LIMIT_S", 0.1)
    slow = r"(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)\8\7\6\5\4\3\2\1model"
    for fields in ({"target_modules": slow}, {"target_modules": "q_proj", "exclude_modules": slow}):
        with pytest.raises(FormatError, match="takes longer than"):
            targeted(config(**fields), [Q0, Q1])


def test_parameters_are_found_by_their_last_components_and_nested_in_order() -> None:
    paths = [f"model.layers.{i}.mlp.experts.{name}" for i in (0, 1) for name in ("gate_up_proj", "down_proj")]
    both = config(target_parameters=["experts.down_proj", "experts.gate_up_proj"])
    assert targeted_parameters(both, [*paths, "model.norm.weight"]) == tuple(paths)
    assert wrapped_parameters(both, paths[:2]) == {
        "model.layers.0.mlp.experts": paths[1],
        "model.layers.0.mlp.experts.base_layer": paths[0],
    }
    alone = config(target_parameters=[paths[2]])
    assert wrapped_parameters(alone, paths) == {"model.layers.1.mlp.experts": paths[2]}


def test_replicated_layers_are_stacked_and_the_rest_stays() -> None:
    stacked = replicated(config(layer_replication=[[1, 2], [0, 2], [7, 9]]), BASE)
    assert stacked.num_layers == 3
    assert len(stacked.modules) == 2 + 3 * 7
    assert stacked.modules["lm_head"] == BASE.modules["lm_head"]
    assert replicated(config(), BASE) is BASE


@pytest.mark.parametrize("ranges", [[[0, 10**15]], [[0, 2]] * 100_000, [[-(10**15), 1]]])
def test_a_replication_of_more_layers_than_any_model_has_is_no_replication(ranges: list[list[int]]) -> None:
    asked = config(layer_replication=ranges)
    assert asked.layer_replication is None
    assert asked.mistyped == {"layer_replication": ranges}
    assert replicated(asked, BASE) is BASE


@pytest.mark.slow
def test_a_name_of_megabytes_is_compared_in_no_time() -> None:
    begun = time.perf_counter()
    assert targeted(config(target_modules=["q_proj"]), ["a." * 10**6 + "q_proj"]) == {"a." * 10**6 + "q_proj"}
    assert time.perf_counter() - begun < 5
