"""What an adapter holds for each module, from its config and header alone."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from lora_cli.core.adapter import Adapter, LoraPair
from lora_cli.core.factors import possible_scales, wrapped_by
from lora_cli.core.json_schema import Count
from lora_cli.core.tensor_keys import without_wrappers
from lora_cli.errors import FormatError

LAYER = re.compile(r"(?:^|(?<=\.))\d{1,9}(?=\.|$)", re.ASCII)


@dataclass(frozen=True, slots=True)
class ModuleFacts:
    """What the adapter has for one module; null if its tensors or its config do not say."""

    module: str
    """Its path in the base model."""
    r: Count | None
    """The rank that its tensors have."""
    scaling: float | None
    """The s in s * B @ A."""
    d_in: Count | None
    d_out: Count | None
    dtype: str
    """As safetensors names it; both where A and B differ."""
    parameters: Count
    """The number of elements of A and B."""
    bytes: Count
    """The bytes of A and B, as they are stored."""


def facts_of(adapter: Adapter) -> tuple[ModuleFacts, ...]:
    """Every module with a factor, in the order of its tensors."""
    scaling = _scaling(adapter)
    return tuple(_facts(module, pair, scaling.get(module)) for module, pair in adapter.pairs.items())


def _facts(module: str, pair: LoraPair, scaling: float | None) -> ModuleFacts:
    factors = pair.factors
    d_in, d_out = pair.widths
    return ModuleFacts(
        module=module,
        r=pair.rank,
        scaling=scaling,
        d_in=d_in,
        d_out=d_out,
        dtype="/".join(dict.fromkeys(factor.dtype for factor in factors)),
        parameters=sum(math.prod(factor.shape) for factor in factors),
        bytes=sum(factor.nbytes for factor in factors),
    )


def _scaling(adapter: Adapter) -> Mapping[str, float]:
    config = adapter.config
    if config is None:
        return {}
    try:
        found = possible_scales(config, adapter.pairs, wrapped_by(config, adapter.pairs))
    except FormatError:
        return {}
    return {module: scales[0].scaling for module, scales in found.items() if len(scales) == 1}


def leaf_of(module: str) -> str:
    """The last name of a module, without the wrappers that PEFT nests around fused experts."""
    return without_wrappers(module).rpartition(".")[2]


def layer_of(module: str) -> int | None:
    """The number of the layer that a module is in, None if its name has no number."""
    found = LAYER.search(module)
    return int(found.group()) if found else None
