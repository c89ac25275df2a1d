"""Targets and scales where there is no PEFT to compare with: errors, limits, and what has no tensors yet."""

import math
from typing import Any

import pytest

from lora_cli.adapter.config import LoraConfig, parse_config
from lora_cli.base.base_model import BaseModel, BaseModule
from lora_cli.errors import FormatError
from lora_cli.peft.targets import (
    Scale,
    scales,
    targeted,
    targeted_in,
    targeted_parameters,
    wrapped_parameters,
)
from tests.making import llama_modules

Q0, Q1 = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
LANGUAGE = "x.language_model.y.q_proj"
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
SLOW = r"(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)\8\7\6\5\4\3\2\1model"


def config(**fields: Any) -> LoraConfig:
    return parse_config(fields)


SCALES: list[tuple[dict[str, Any], list[Scale]]] = [
    ({"r": 4, "lora_alpha": 8}, [Scale(4, 8, 2.0), Scale(4, 8, 2.0)]),
    ({"r": 9, "lora_alpha": 6, "use_rslora": True}, [Scale(9, 6, 2.0)] * 2),
    (
        {"r": 8, "lora_alpha": 16, "rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"k_proj": 1}},
        [Scale(8, 16, 2.0), Scale(2, 16, 8.0)],
    ),
    ({"rank_pattern": {"q_proj": 2, Q0: 4}}, [Scale(2, 8, 4.0)] * 2),
    ({"rank_pattern": {Q0: 4, "q_proj": 2}}, [Scale(4, 8, 2.0), Scale(2, 8, 4.0)]),
    ({"rank_pattern": {r".*\.1\..*": 2}, "lora_alpha": 0}, [Scale(8, 0, 0.0), Scale(2, 0, 0.0)]),
]


@pytest.mark.parametrize(("fields", "wanted"), SCALES)
def test_rank_alpha_and_scaling_of_each_module_by_the_first_key_that_matches(
    fields: dict[str, Any], wanted: list[Scale]
) -> None:
    assert list(scales(config(**fields), [Q0, Q1]).items()) == list(zip([Q0, Q1], wanted, strict=True))
    assert math.isfinite(scales(config(lora_alpha=1e308, r=1), [Q0])[Q0].scaling)


SCALE_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"r": "8"}, 'adapter_config.json: r: must be an integer, not a string: "8"'),
    ({"lora_alpha": None}, "adapter_config.json: lora_alpha: must be a number, not null: null"),
    ({"use_rslora": "yes"}, "adapter_config.json: use_rslora: must be a boolean"),
    ({"rank_pattern": {"q_proj": "4"}}, "adapter_config.json: rank_pattern: must be an integer"),
    ({"r": 10**400, "use_rslora": True}, "adapter_config.json: r: must fit in a float, not 1000"),
    ({"r": 0}, f"adapter_config.json: r: the rank must be positive, and is 0 for {Q0}"),
    ({"rank_pattern": {"q_proj": -1}}, f"the rank must be positive, and is -1 for {Q0}"),
    ({"rank_pattern": {"(": 1}}, "adapter_config.json: rank_pattern: '(' is not a regular expression"),
]
TARGET_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"target_modules": ["q_proj", 1]}, "target_modules: must be a string, not an integer"),
    ({"target_modules": "*"}, "target_modules: '*' is not a regular expression"),
    ({"target_modules": "q_proj", "exclude_modules": "("}, "exclude_modules: '(' is not a regular expression"),
    ({"target_modules": [], "modules_to_save": ["("]}, "modules_to_save: '(' is not a regular expression"),
    ({"target_modules": SLOW}, "takes longer than 0.1 s"),
    ({"target_modules": "q_proj", "exclude_modules": SLOW}, "takes longer than 0.1 s"),
    ({}, "PEFT has no default for an unknown model type"),
]


@pytest.mark.parametrize(
    ("ask", "fields", "message"),
    [*((scales, *one) for one in SCALE_ERRORS), *((targeted, *one) for one in TARGET_ERRORS)],
)
def test_nothing_is_guessed(ask: Any, fields: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_cli.peft.patterns.TIME_LIMIT_S", 0.1)
    with pytest.raises(FormatError) as caught:
        ask(config(**fields), [Q0, Q1])
    assert message in str(caught.value)


LINEAR = [Q0, "model.layers.0.self_attn.k_proj", "lm_head", "embed_out", "score", LANGUAGE]
TARGETED: list[tuple[dict[str, Any], str, set[str]]] = [
    ({}, "llama", {Q0, LANGUAGE}),
    ({}, "gemma4", {LANGUAGE}),
    ({"target_parameters": ["experts.down_proj"]}, "", set()),
    ({"target_modules": "all-linear"}, "", {*LINEAR} - {"lm_head", "embed_out"}),
    ({"target_modules": "ALL-LINEAR", "task_type": "SEQ_CLS"}, "", {*LINEAR} - {"lm_head", "embed_out", "score"}),
    ({"target_modules": ["q_proj"], "exclude_modules": ["y.q_proj"]}, "", {Q0}),
    ({"target_modules": ".*q_proj", "exclude_modules": r"x\..*"}, "", {Q0}),
    ({"target_modules": ["q_proj", "score"], "modules_to_save": ["score", "language.model"]}, "", {Q0}),
    ({"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "layers"}, "", {Q0}),
    ({"target_modules": ["q_proj"], "layers_to_transform": 1}, "", set()),
]


@pytest.mark.parametrize(("fields", "model_type", "wanted"), TARGETED)
def test_the_modules_that_a_config_targets(fields: dict[str, Any], model_type: str, wanted: set[str]) -> None:
    assert targeted(config(**fields), LINEAR, linear=LINEAR, model_type=model_type) == wanted


def test_all_linear_leaves_out_the_heads_and_embeddings_of_a_base() -> None:
    assert targeted_in(config(target_modules="all-linear"), BASE) == set(llama_modules())


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
