"""Targets and scales where there is no PEFT to compare with, and the heads of tasks as transformers has them."""

from typing import Any

import pytest

from lora_cli.adapter.config import parse_config
from lora_cli.base.families import base_from_config
from lora_cli.errors import FormatError
from lora_cli.peft.targets import HEADS, for_task, scales, targeted, targeted_in
from tests.base.configs import CONFIGS
from tests.base.oracle import facts
from tests.making import base_config, llama_modules
from tests.peft.test_patterns import SLOW

Q0, Q1 = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
LANGUAGE = "x.language_model.y.q_proj"

ERRORS: list[tuple[Any, dict[str, Any], str]] = [
    (scales, {"r": "8"}, 'adapter_config.json: r: must be an integer, not a string: "8"'),
    (scales, {"lora_alpha": None}, "adapter_config.json: lora_alpha: must be a number, not null: null"),
    (scales, {"rank_pattern": {"q_proj": "4"}}, "adapter_config.json: rank_pattern: must be an integer"),
    (scales, {"r": 10**400, "use_rslora": True}, "adapter_config.json: r: must fit in a float, not 1000"),
    (scales, {"r": 0}, f"adapter_config.json: r: the rank must be positive, and is 0 for {Q0}"),
    (scales, {"rank_pattern": {"(": 1}}, "adapter_config.json: rank_pattern: '(' is not a regular expression"),
    (targeted, {"target_modules": ["q_proj", 1]}, "target_modules: must be a string, not an integer"),
    (
        targeted,
        {"target_modules": "q_proj", "exclude_modules": "("},
        "exclude_modules: '(' is not a regular expression",
    ),
    (targeted, {"target_modules": [], "modules_to_save": ["("]}, "modules_to_save: '(' is not a regular expression"),
    (targeted, {"target_modules": SLOW}, "takes longer than 0.1 s"),
    (targeted, {}, "PEFT has no default for an unknown model type"),
]


@pytest.mark.parametrize(("ask", "fields", "message"), ERRORS)
def test_nothing_is_guessed(ask: Any, fields: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_cli.peft.targets.LIMIT_S", 0.1)
    with pytest.raises(FormatError) as caught:
        ask(parse_config(fields), [Q0, Q1])
    assert message in str(caught.value)


LINEAR = [Q0, "model.layers.0.self_attn.k_proj", "lm_head", "embed_out", "score", LANGUAGE]
TARGETED: list[tuple[dict[str, Any], str, set[str]]] = [
    ({}, "llama", {Q0, LANGUAGE}),
    ({"target_parameters": ["experts.down_proj"]}, "", set()),
    ({"target_modules": "ALL-LINEAR", "task_type": "SEQ_CLS"}, "", {*LINEAR} - {"lm_head", "embed_out", "score"}),
    ({"target_modules": ["q_proj", "score"], "modules_to_save": ["score", "language.model"]}, "", {Q0}),
]


@pytest.mark.parametrize(("fields", "model_type", "wanted"), TARGETED)
def test_the_modules_that_a_config_targets(fields: dict[str, Any], model_type: str, wanted: set[str]) -> None:
    assert targeted(parse_config(fields), LINEAR, linear=LINEAR, model_type=model_type) == wanted


def test_all_linear_leaves_out_the_heads_and_embeddings_of_a_base() -> None:
    base = base_from_config(base_config(), "base")
    assert targeted_in(parse_config({"target_modules": "all-linear"}), base) == {*llama_modules()}


CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
"""Task to the class of transformers that an adapter for it is trained on."""


@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("family", ["llama", "qwen3", "bert", "roberta", "gpt2", "gpt_neox", "opt", "bloom", "falcon"])
def test_a_base_has_the_modules_of_the_class_for_the_task(family: str, task: str) -> None:
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(family, **CONFIGS[family][0])
    auto = getattr(transformers, CLASSES[task])
    if type(config) not in auto._model_mapping:
        return
    with torch.device("meta"):
        modules = facts(auto.from_config(config))["modules"]
    inside = {path: one for path, one in modules.items() if path.partition(".")[0] not in HEADS.get(task, ())}
    base = base_from_config({"model_type": family, **CONFIGS[family][0]}, "base")
    assert for_task(base, task, tuple(inside)).modules == inside


def test_the_class_for_text_generation_is_the_base_itself() -> None:
    base = base_from_config(base_config(), "base")
    for task, named in (("CAUSAL_LM", ""), (None, ""), ("FEATURE_EXTRACTION", "model.layers.0.mlp.up_proj")):
        assert for_task(base, task, (named,)) is base
