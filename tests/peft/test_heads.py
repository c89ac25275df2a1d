"""A base with the head of a task is the model that transformers' class for the task builds."""

import pytest

from lora_cli.base.families import base_from_config
from lora_cli.peft.targets import HEADS, for_task
from tests.base.configs import CONFIGS
from tests.base.oracle import facts

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


@pytest.mark.parametrize(
    ("task", "named"), [("CAUSAL_LM", ""), (None, ""), ("FEATURE_EXTRACTION", "model.layers.0.mlp.up_proj")]
)
def test_the_class_for_text_generation_is_the_base_itself(task: str | None, named: str) -> None:
    base = base_from_config({"model_type": "llama", **CONFIGS["llama"][0]}, "base")
    assert for_task(base, task, (named,)) is base
