"""What an adapter says itself about the class of model that it was trained on."""

import re

from lora_cli.core.adapter import Adapter
from lora_cli.core.text import cut

GENERATORS = re.compile(r"(ForCausalLM|LMHeadModel|ForConditionalGeneration|^PeftModel\\w*)$")
"""Classes of transformers and PEFT that engines for language models may serve."""

ROOTS = frozenset({"model", "language_model", "lm_head", "thinker"})
"""How the names of modules begin in the classes for text generation that engines put LoRA on."""


def not_a_language_model(adapter: Adapter) -> str:
    """Why the adapter may not be one of a language model that engines serve with LoRA; empty where nothing says so."""
    config = adapter.config
    named = (config.auto_mapping or {}).get("base_model_class") if config is not None else None
    if isinstance(named, str) and not GENERATORS.search(named):
        return f"auto_mapping names {cut(named)}"
    if config is not None and config.task_type not in {None, "CAUSAL_LM"}:
        return f"task_type is {cut(str(config.task_type))}"
    strange = next((one for one in adapter.pairs if one.partition(".")[0] not in ROOTS or ".encoder." in one), "")
    return f"there is a module {cut(strange)}" if strange else ""
