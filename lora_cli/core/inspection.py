"""What an adapter is, in numbers: from its config and header alone."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from lora_cli.core.adapter import Adapter
from lora_cli.core.formats import dialects
from lora_cli.core.frozen import dataclass, field
from lora_cli.core.lora_config import LoraConfig
from lora_cli.core.targets import scales
from lora_cli.errors import FormatError

T = TypeVar("T", int, float, str)

_LAYER = re.compile(r"(?:^|(?<=\.))\d{1,9}(?=\.|$)", re.ASCII)

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


def inspection_of(adapter: Adapter) -> Inspection:
    """Describe ``adapter``; pure, and total: what cannot be told is left empty."""
    config = adapter.config
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
        scalings=_scalings(config, adapter),
        targets=_counted(_leaf(module) for module in adapter.pairs),
        layers=tuple(sorted({int(found.group()) for module in adapter.pairs if (found := _LAYER.search(module))})),
        dtypes=_counted(tensor.dtype for tensor in tensors),
        parameters=sum(math.prod(tensor.shape) for tensor in tensors),
        weight_bytes=sum(tensor.nbytes for tensor in tensors),
        total_bytes=sum(file.size or 0 for file in adapter.files),
        files=len(adapter.files),
        sha256=next((file.sha256 for file in held if file.sha256), ""),
        features=_features(config),
    )


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


def _leaf(module: str) -> str:
    while module.endswith(".base_layer"):
        module = module.removesuffix(".base_layer")
    return module.rpartition(".")[2]


def _scalings(config: LoraConfig | None, adapter: Adapter) -> Mapping[float, int]:
    if config is None:
        return {}
    try:
        return _counted(scale.scaling for scale in scales(config, adapter.pairs).values())
    except FormatError:
        return {}


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
