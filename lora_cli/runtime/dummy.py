"""A whole model of a config alone, with random weights: it takes the time and the memory of the real one."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from lora_cli.runtime.from_config import causal_model, outline
from lora_cli.runtime.linear import through_onednn
from lora_cli.runtime.room import available_bytes, refuse_if_short


def dummy_model(config: Mapping[str, Any], *, dtype: torch.dtype, device: torch.device, seed: int) -> nn.Module:
    """The causal language model that ``config`` (a ``config.json``) describes, initialised from ``seed``.

    Raises:
        FormatError: transformers makes no model of it.
        MachineError: ``device`` has no room for its weights.
    """
    drawn = outline(config, partial(causal_model, dtype=dtype))
    needed = sum(one.numel() * one.element_size() for one in drawn.parameters())
    refuse_if_short("the base's weights", needed, available_bytes(device), "--forward modules, or a smaller base")
    with torch.random.fork_rng(), device:
        torch.manual_seed(seed)
        model: nn.Module = causal_model(config, dtype=dtype)
    return through_onednn(model.eval())
