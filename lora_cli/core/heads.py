"""The base as the class for the adapter's task has it: another head than the language model's, or none.

A base's config does not say which class an adapter was trained on; ``task_type`` does, and the names of its modules.
Sources: transformers 5 (``For…`` classes of the families in ``core.architectures``), PEFT 0.21 ``peft_model.py``.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TypeVar

from lora_cli.core.base_model import BaseModel, BaseModule
from lora_cli.core.targets import HEADS, OUTPUT_NAMES

T = TypeVar("T")

BARE = "FEATURE_EXTRACTION"

OTHER_PREFIX = ("llama", "qwen2", "qwen3")
"""Families whose class for answering questions calls the model ``transformer`` and not ``model``."""


def for_task(base: BaseModel, task: str | None, named: Collection[str]) -> BaseModel:
    """``base`` as its class for ``task`` has it; ``named`` are the adapter's own modules.

    The base itself for text generation, and for tasks without a head where the names are text generation's even so.
    """
    if task in HEADS:
        within = {path: module for path, module in base.modules.items() if not _of_head(path)}
        headed = replace(base, modules=within | _pooler(base, task))
        return _renamed(headed, named, "transformer.") if base.model_type in OTHER_PREFIX else headed
    return _renamed(base, named, "") if task == BARE else base


def _pooler(base: BaseModel, task: str | None) -> dict[str, BaseModule]:
    """What BERT and RoBERTa have besides, where not every token is asked of."""
    has = base.model_type in {"bert", "roberta"} if task == BARE else (task, base.model_type) == ("SEQ_CLS", "bert")
    pooler = BaseModule(base.hidden_size, base.hidden_size, bias=True)
    return {f"{base.model_type}.pooler.dense": pooler} if has else {}


def _renamed(base: BaseModel, named: Collection[str], prefix: str) -> BaseModel:
    """``base`` with another first component, if more of the adapter's names are those then."""
    model = next(iter(base.modules), "").partition(".")[0] + "."

    def moved(paths: Mapping[str, T]) -> dict[str, T]:
        return {prefix + path.removeprefix(model): value for path, value in paths.items() if not _of_head(path)}

    modules = moved({**base.modules, **(_pooler(base, BARE) if not prefix else {})})
    if sum(path in modules for path in named) <= sum(path in base.modules for path in named):
        return base
    return replace(base, modules=modules, parameters=moved(base.parameters))


def _of_head(path: str) -> bool:
    """Whether it belongs to the language model's head: ``lm_head``, RoBERTa's ``lm_head.dense``, BERT's ``cls``."""
    parts = path.split(".")
    return parts[-1] in OUTPUT_NAMES or parts[0] in OUTPUT_NAMES or parts[0] == "cls"
