"""The adapters that PEFT is asked to write: what is targeted, and each option that it offers."""

import functools
from collections.abc import Mapping
from typing import Any

from tests.corpus.bases import Base

PLAIN: Mapping[str, Any] = {"r": 8, "lora_alpha": 12}

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "rsLoRA": {"use_rslora": True, "r": 6},
    "patterns": {"rank_pattern": {".*0.*": 2}, "alpha_pattern": {".*1.*": 5}},
    "one layer": {"layers_to_transform": [1]},
    "an exclusion": {"exclude_modules": r".*\.1\..*"},
    "all-linear": {"target_modules": "all-linear"},
    "a regular expression": {"target_modules": r".*\.\d+\..*(q_proj|c_attn|query_key_value|qkv_proj)"},
    "DoRA": {"use_dora": True},
    "biases on B": {"lora_bias": True},
    "biases": {"bias": "lora_only"},
    "all biases": {"bias": "all"},
    "a saved head": {"modules_to_save": ["lm_head"]},
    "trained tokens": {"trainable_token_indices": [1, 5]},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "PiSSA": {"init_lora_weights": "pissa"},
    "OLoRA": {"init_lora_weights": "olora"},
    "a high rank": {"r": 64, "lora_alpha": 0.5},
    "dropout": {"lora_dropout": 0.1},
    "layers twice": {"layer_replication": [[0, 2], [0, 1]]},
    "KaSA": {"kasa_config": {"beta": 0.1, "gamma": 0.1}},
    "BD-LoRA": {"use_bdlora": {"target_modules_bd_b": ["."], "nblocks": 2}},
    "MiCA": {"init_lora_weights": "mica"},
    "VeLoRA": {"velora_config": {"num_groups": 2}},
}

NOT_FOR: Mapping[str, frozenset[str]] = {
    # PEFT asks Conv1D for a width that it does not have, and says that KaSA is not for it.
    "BD-LoRA": frozenset({"gpt2"}),
    "KaSA": frozenset({"gpt2"}),
    # PEFT stacks layers only where it knows the class's list of them, and not where layers differ in kind.
    "layers twice": frozenset(
        {"gemma2", "qwen2", "qwen3", "gemma3_text", "falcon", "bloom", "gpt2", "gptj", "gpt_neox", "opt"}
    ),
}


@functools.cache
def targets(base: Base) -> tuple[str, ...]:
    """The last names of all linear modules in the layers of the base."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    linear = [path for path, module in base.model().named_modules() if isinstance(module, Linear | Conv1D)]
    return tuple(sorted({path.rpartition(".")[2] for path in linear if "." in path}))


def options(base: Base, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What ``LoraConfig`` is given: a plain adapter on all of the base's targets, changed."""
    return {**PLAIN, "target_modules": [*targets(base)], **changes}
