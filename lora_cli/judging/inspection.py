"""What an adapter is, in numbers: from its config and header alone. ``inspect --format json`` has these fields."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from lora_cli.adapter.adapter import Adapter, LoraPair
from lora_cli.adapter.config import LoraConfig
from lora_cli.adapter.formats import dialects
from lora_cli.adapter.names import layer_of, leaf_of
from lora_cli.base.base_model import HALF_BYTES, BaseModel
from lora_cli.documents.model_card import Card
from lora_cli.errors import FormatError
from lora_cli.json_schema import Count, PositiveCount, Sha256OrEmpty
from lora_cli.peft.factors import possible_scales, wrapped_by

T = TypeVar("T", int, float, str)

BEYOND_PLAIN = (
    "use_rslora", "use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "ensure_weight_tying",
    "rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform", "exclude_modules", "target_parameters",
    "trainable_token_indices", "layer_replication", "alora_invocation_tokens", "use_bdlora", "arrow_config",
    "kasa_config", "monteclora_config", "velora_config", "eva_config", "corda_config",
)  # fmt: skip
"""Fields of a config that, when set, go beyond plain LoRA."""


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


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the adapter is, from its config and headers."""

    format: str
    """How the weights are stored, and what is unusual about their names."""
    base: str
    """The base model, as the config names it."""
    base_revision: str
    peft_version: str
    """As the config says."""
    task_type: str
    modules: Count
    """The number of modules that have a factor."""
    ranks: Mapping[int, PositiveCount]
    """For each rank, the number of modules that have it."""
    scalings: Mapping[float, PositiveCount]
    """For each scaling, the number of modules that have it."""
    targets: Mapping[str, PositiveCount]
    """For each last component of a module's path, the number of modules that have it."""
    layers: tuple[Count, ...]
    dtypes: Mapping[str, PositiveCount]
    """For each dtype, the number of tensors that have it."""
    parameters: Count
    weight_bytes: Count
    """The bytes of all tensors."""
    total_bytes: Count
    """The bytes of all files whose size the origin knows."""
    files: Count
    sha256: Sha256OrEmpty
    """The digest of the weights, where the origin knows it; else empty."""
    snapshot: Sha256OrEmpty
    """The digest of the cached snapshot that it was read from; empty of a local folder, and where it is not cached."""
    features: tuple[str, ...]
    """What goes beyond plain LoRA."""
    slot_bytes: Count | None
    """What A and B of its own modules take on a GPU at their own ranks, in slot_dtype; null without a base model. An
    engine's slots are larger: see engine_args."""
    slot_dtype: str
    """The dtype that the base model is served in; may be empty."""
    card: Card | None
    """The front matter of README.md, or null if there is none."""
    metadata: Mapping[str, str]
    """The metadata of the safetensors header, cut to a bound, without PEFT's own format key."""
    by_module: tuple[ModuleFacts, ...]
    """Every module, in the order of its tensors; at most the first 75000, while modules counts all."""


def inspection_of(
    adapter: Adapter, base: BaseModel | None = None, card: Card | None = None, snapshot: str = ""
) -> Inspection:
    """Describe ``adapter``; pure, and total: unknown values are left empty.

    ``base`` is what it is to be served on, ``card`` what is next to it, ``snapshot`` its digest in the cache.
    """
    config = adapter.config or LoraConfig()
    by_module = facts_of(adapter)
    tensors = adapter.tensors.values()
    weights = [file for file in adapter.files if file.path in adapter.weight_files]
    return Inspection(
        format=_format(adapter),
        base=config.base_model_name_or_path or "",
        base_revision=config.revision or "",
        peft_version=config.peft_version or "",
        task_type=config.task_type or "",
        modules=len(adapter.pairs),
        ranks=_counted(pair.rank for pair in adapter.pairs.values() if pair.rank is not None),
        scalings=_counted(one.scaling for one in by_module if one.scaling is not None),
        targets=_counted(map(leaf_of, adapter.pairs)),
        layers=tuple(sorted({layer for module in adapter.pairs if (layer := layer_of(module)) is not None})),
        dtypes=_counted(tensor.dtype for tensor in tensors),
        parameters=sum(math.prod(tensor.shape) for tensor in tensors),
        weight_bytes=sum(tensor.nbytes for tensor in tensors),
        total_bytes=sum(file.size or 0 for file in adapter.files),
        files=len(adapter.files),
        sha256=next((file.sha256 for file in weights if file.sha256), ""),
        snapshot=snapshot,
        features=_features(config),
        slot_bytes=HALF_BYTES * sum(one.parameters for one in by_module) if base is not None and by_module else None,
        slot_dtype=base.served_dtype if base is not None and by_module else "",
        card=card,
        metadata=_metadata(adapter),
        by_module=by_module[:MOST_MODULES],
    )


LONGEST_METADATA = 200
MOST_METADATA = 64
MOST_MODULES = 75_000


def _metadata(adapter: Adapter) -> Mapping[str, str]:
    """What the header says of itself, cut: trainers of images keep whole logs there."""
    metadata = {key: value for key, value in adapter.metadata.items() if (key, value) != ("format", "pt")}
    return {key[:LONGEST_METADATA]: metadata[key][:LONGEST_METADATA] for key in list(metadata)[:MOST_METADATA]}


def _format(adapter: Adapter) -> str:
    if adapter.foreign is not None:
        return f"{adapter.foreign.format.title} ({adapter.foreign.file})"
    method = adapter.config.peft_type if adapter.config is not None else None
    name = "PEFT LoRA" if method == "LORA" else f"PEFT {method}" if method else "unknown"
    if adapter.weights_error is not None or adapter.unread:
        why = adapter.unread if adapter.weights_error is None else adapter.weights_error.reason
        return f"{name}, weights not readable: {why}"
    if not adapter.weight_files:
        return f"{name}, no weights"
    return ", ".join((name, "pickle" if adapter.pickled else "safetensors", *dialects(adapter.tensors)))


def _features(config: LoraConfig) -> tuple[str, ...]:
    names = [name for name in BEYOND_PLAIN if getattr(config, name)]
    if config.bias != "none":
        names.append(f"bias={config.bias}")
    if isinstance(config.init_lora_weights, str):
        names.append(f"init_lora_weights={config.init_lora_weights}")
    return tuple(names)


def _counted(values: Iterable[T]) -> dict[T, int]:
    return dict(Counter(values).most_common())
