"""A whole model of a config alone, with random weights: it takes the time and the memory of the real one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lora_cli.errors import FormatError
from lora_cli.runtime.linear import through_onednn
from lora_cli.runtime.room import available_bytes, refuse_if_short


def dummy_model(config: Mapping[str, Any], *, dtype: torch.dtype, device: torch.device, seed: int) -> nn.Module:
    """The causal language model that ``config`` (a ``config.json``) describes, initialised from ``seed``.

    Raises:
        FormatError: transformers makes no such model of it.
        MachineError: ``device`` has no room for its weights.
    """
    with torch.device("meta"):
        outline = _made(config, dtype)
    needed = sum(one.numel() * one.element_size() for one in outline.parameters())
    refuse_if_short("the base's weights", needed, available_bytes(device), "--forward modules, or a smaller base")
    with torch.random.fork_rng(), device:
        torch.manual_seed(seed)
        model = _made(config, dtype)
    return through_onednn(model.eval())


def _made(config: Mapping[str, Any], dtype: torch.dtype) -> nn.Module:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {name: value for name, value in config.items() if name not in {"model_type", "auto_map"}}
    try:
        made = AutoConfig.for_model(str(config.get("model_type")), **fields)
        model: nn.Module = AutoModelForCausalLM.from_config(made, dtype=dtype)
    except (StrictDataclassError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        said = " ".join(str(error).split())[:200]
        raise FormatError(f"transformers makes no model of it: {said}", where="config.json") from error
    return model
