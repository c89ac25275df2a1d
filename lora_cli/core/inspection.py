"""What an adapter is, in numbers: from its config and header alone."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from lora_cli.core.adapter import Adapter
from lora_cli.core.base_model import HALF_BYTES, BaseModel
from lora_cli.core.card import Card
from lora_cli.core.formats import dialects
from lora_cli.core.lora_config import LoraConfig
from lora_cli.core.module_facts import ModuleFacts, facts_of, layer_of, leaf_of
from lora_cli.core.writers import Writer, writers_of

T = TypeVar("T", int, float, str)

SWITCHES = ("use_rslora", "use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "ensure_weight_tying")
VARIANTS = (
    "rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform", "exclude_modules", "target_parameters",
    "trainable_token_indices", "layer_replication", "alora_invocation_tokens", "use_bdlora", "arrow_config",
    "kasa_config", "monteclora_config", "velora_config", "eva_config", "corda_config",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Inspection:
    """One adapter, described. Counts map a value to how many modules (or tensors, for ``dtypes``) have it.

    ``format`` is how the weights are stored. ``layers`` are the numbers of the layers that have tensors.
    ``parameters`` counts the elements of all tensors, ``weight_bytes`` their bytes, ``total_bytes`` those of all files
    whose size the origin knows. ``sha256`` is the digest of the weights where the origin knows it, ``snapshot`` that of
    the same revision in the cache, when it is there.
    ``features`` name what goes beyond plain LoRA. What the config does not say, or says wrongly, is empty.
    ``slot_bytes`` is what A and B of the adapter's own modules take at their own ranks, in ``slot_dtype``, which the
    base is served in: None without a base. An engine's slots are larger: see ``engines.capacity``.
    ``writers`` are the tools that are told to have had a hand in it, ``card`` is its model card, None where there is
    none. ``metadata`` is that of the safetensors header, without PEFT's own ``format``.
    """

    format: str
    base: str = ""
    base_revision: str = ""
    peft_version: str = ""
    task_type: str = ""
    modules: int = 0
    ranks: Mapping[int, int] = field(default_factory=dict)
    scalings: Mapping[float, int] = field(default_factory=dict)
    targets: Mapping[str, int] = field(default_factory=dict)
    layers: tuple[int, ...] = ()
    dtypes: Mapping[str, int] = field(default_factory=dict)
    parameters: int = 0
    weight_bytes: int = 0
    total_bytes: int = 0
    files: int = 0
    sha256: str = ""
    snapshot: str = ""
    features: tuple[str, ...] = ()
    slot_bytes: int | None = None
    slot_dtype: str = ""
    writers: tuple[Writer, ...] = ()
    card: Card | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    by_module: tuple[ModuleFacts, ...] = ()


def inspection_of(adapter: Adapter, base: BaseModel | None = None, card: Card | None = None) -> Inspection:
    """Describe ``adapter``; pure, and total: what cannot be told is left empty.

    ``base`` is what it is to be served on, ``card`` what stands beside it.
    """
    config = adapter.config
    by_module = facts_of(adapter)
    tensors = adapter.tensors.values()
    held = [file for file in adapter.files if file.path in adapter.weight_files]
    return Inspection(
        format=_format(adapter),
        base=(config.base_model_name_or_path or "") if config else "",
        base_revision=(config.revision or "") if config else "",
        peft_version=(config.peft_version or "") if config else "",
        task_type=(config.task_type or "") if config else "",
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
        sha256=next((file.sha256 for file in held if file.sha256), ""),
        features=_features(config),
        slot_bytes=HALF_BYTES * sum(one.parameters for one in by_module) if base is not None and by_module else None,
        slot_dtype=base.served_dtype if base is not None and by_module else "",
        writers=writers_of(config, (file.path for file in adapter.files), card),
        card=card,
        metadata=_metadata(adapter),
        by_module=by_module,
    )


LONGEST_METADATA = 200
MOST_METADATA = 64


def _metadata(adapter: Adapter) -> Mapping[str, str]:
    """What the header says of itself, cut: trainers of images keep whole logs there."""
    said = {key: value for key, value in adapter.metadata.items() if (key, value) != ("format", "pt")}
    return {key[:LONGEST_METADATA]: said[key][:LONGEST_METADATA] for key in list(said)[:MOST_METADATA]}


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


def _features(config: LoraConfig | None) -> tuple[str, ...]:
    if config is None:
        return ()
    names = [name for name in (*SWITCHES, *VARIANTS) if getattr(config, name)]
    if config.bias != "none":
        names.append(f"bias={config.bias}")
    if isinstance(config.init_lora_weights, str):
        names.append(f"init_lora_weights={config.init_lora_weights}")
    return tuple(names)


def _counted(values: Iterable[T]) -> dict[T, int]:
    return dict(Counter(values).most_common())
