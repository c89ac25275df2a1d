"""What adapters are, in numbers: from config and header alone. ``inspect --format json`` has the fields of this."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Literal

from lora_cli.adapter.adapter import Adapter, Comparison, compare, leaf_of, without_wrappers
from lora_cli.adapter.config import LoraConfig
from lora_cli.adapter.reading import read_adapter
from lora_cli.base.base_model import BaseModel
from lora_cli.errors import FormatError, Refused, UsageError
from lora_cli.fetching import gate
from lora_cli.json_schema import INLINE, Count, PositiveCount, Version
from lora_cli.judging.engine_args import EngineArgs
from lora_cli.judging.read import Terms, each, open_one, unreadable
from lora_cli.judging.result import Result, stage
from lora_cli.peft.match import apply
from lora_cli.peft.targets import EXPERTS, endings, one_deadline, scales
from lora_cli.refs.adapter_files import CONFIG, WEIGHTS
from lora_cli.refs.reference import ref_of
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from lora_cli.text import by_key, cut, safe
from lora_cli.version import __version__

NUMBER = re.compile(r"(?:^|\.)(\d{1,9})(?:\.|$)", re.ASCII)
"""The number of the layer that a module is in."""

BEYOND_PLAIN = (
    "use_rslora", "use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "ensure_weight_tying",
    "rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform", "exclude_modules", "target_parameters",
    "trainable_token_indices", "layer_replication", "alora_invocation_tokens", "use_bdlora", "arrow_config",
    "kasa_config", "monteclora_config", "velora_config", "eva_config", "corda_config",
)  # fmt: skip
"""Fields of a config that, when set, go beyond plain LoRA."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the adapter is, from its config and headers."""

    format: str
    """What it is ("PEFT LoRA"), and how its weights are stored."""
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
    features: tuple[str, ...]
    """What goes beyond plain LoRA."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """One adapter. Its exit_code is 1 where config or weights cannot be read; a finding is not a failure here."""

    result: Result = field(metadata=INLINE)
    inspection: Inspection | None
    """What the adapter is, or null if it could not be read."""
    diff: Comparison | None
    """The result of --diff; null if it was not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectReport:
    """What adapters are. A field may be added under the same number; a change of meaning makes a new number."""

    schema: Literal["lora_cli/inspect/1"] = "lora_cli/inspect/1"
    version: Version = __version__
    base: BaseModel | None
    """The base model that the adapters were compared with, or null."""
    adapters: tuple[Inspected, ...]
    engine_args: EngineArgs | None
    """The smallest flags with which an engine serves the adapters, or null if they were not asked for."""


def inspect_one(request: Request, terms: Terms, *, weights: bool = True) -> Result:
    """One adapter read by config, and if wanted by header, and matched with the base; no rule is run.

    Raises no ``LoraCliError``: it is part of the result.
    """
    result = Result.of(request)
    with stage(result, "read"):
        files, _ = open_one(result, terms)
        adapter = result.adapter = read_adapter(files, result.name, weights=weights)
        result.base = None if terms.base is None else terms.base.name
        if terms.base is not None and adapter.has_weights:
            with one_deadline():
                result.applied = apply(adapter, terms.base).applied
    return result


def infer_base(requests: Sequence[Request], settings: Settings, command: str) -> str:
    """The repository or folder that the adapters' configs name, for a ``command`` that needs a base.

    Raises:
        UsageError: the configs have no base, several, or one that is neither a Hub repository nor a local folder.
        Refused: a policy does not allow the base.
        LoraCliError: none of the adapters can be read.
    """
    hint = "--base DIRECTORY, config.json or ORG/NAME"
    results = list(each(requests, partial(inspect_one, weights=False), Terms(settings)))
    configs = [(one.adapter.config, one.name) for one in results if one.adapter and one.adapter.config]
    errors = [one.error for one in results if one.error is not None]
    named = {base: name for config, name in reversed(configs) if (base := config.base_model_name_or_path)}
    if len(named) > 1:
        several = " and ".join(f"{safe(cut(base))} ({safe(name)})" for base, name in [*reversed(named.items())][:2])
        raise UsageError(f"the adapters are for several bases: {several}", hint=f"select some of them, or set {hint}")
    if not named:
        raise errors[0] if errors else UsageError(f"{command} needs a base model, but no config names one", hint=hint)
    (base,) = named
    if reason := unreadable(base):
        raise UsageError(f"{command} needs a base model: {reason}", hint=hint)
    # The author of the adapter chose it, not the user.
    gate.refuse(Request("", ref_of(base)), settings)
    return base


def inspected(result: Result, other: Result | None = None) -> Inspected:
    """What is said of an adapter that was read or judged; what makes it unreadable becomes the result's error.

    ``other`` is what it is compared with.
    """
    adapter, diff = result.adapter, None
    if adapter is not None and result.error is None:
        if (error := adapter.config_error or adapter.weights_error) is not None:
            result.error = Refused(error.message, hint=error.hint)
        elif adapter.config is None or not adapter.weight_files:
            lacking = Refused(f"there is no {CONFIG if adapter.config is None else WEIGHTS}")
            foreign = adapter.foreign
            result.error = lacking if foreign is None else Refused(f"it is {foreign.title}", hint=foreign.advice)
    result.exit_code = result.error.exit_code if result.error is not None else 0
    if adapter is not None and other is not None and other.adapter is not None:
        diff = compare(adapter, other.adapter, other.source, other.revision or "")
    return Inspected(result, None if adapter is None else inspection_of(adapter), diff)


def inspection_of(adapter: Adapter) -> Inspection:
    """Describe ``adapter``; pure, and total: unknown values are left empty."""
    config = adapter.config or LoraConfig()
    tensors = adapter.tensors.values()
    return Inspection(
        format=_format(adapter),
        base=config.base_model_name_or_path or "",
        base_revision=config.revision or "",
        peft_version=config.peft_version or "",
        task_type=config.task_type or "",
        modules=len(adapter.pairs),
        ranks=Counter(pair.rank for pair in adapter.pairs.values() if pair.rank is not None),
        scalings=Counter(_scalings(adapter)),
        targets=Counter(map(leaf_of, adapter.pairs)),
        layers=tuple(sorted({int(found[1]) for found in map(NUMBER.search, adapter.pairs) if found is not None})),
        dtypes=Counter(tensor.dtype for tensor in tensors),
        parameters=sum(math.prod(tensor.shape) for tensor in tensors),
        weight_bytes=sum(tensor.nbytes for tensor in tensors),
        total_bytes=sum(file.size or 0 for file in adapter.files),
        files=len(adapter.files),
        features=(
            *(name for name in BEYOND_PLAIN if getattr(config, name)),
            *([f"bias={config.bias}"] if config.bias != "none" else []),
            *([f"init_lora_weights={it}"] if isinstance(it := config.init_lora_weights, str) else []),
        ),
    )


def _scalings(adapter: Adapter) -> list[float]:
    """The s in s * B @ A of each module with a factor, as far as config and names tell it."""
    if adapter.config is None:
        return []
    names = (name.rpartition(".") for name in adapter.config.target_parameters or ())
    leaves, paths = by_key((parent, leaf) for parent, _, leaf in names), list[list[str]]()
    for module in adapter.pairs:
        stem = without_wrappers(module)
        ends = [*endings(stem), *([""] if leaf_of(stem) == EXPERTS else [])]
        # Experts have four parameters each.
        paths.append([f"{stem}.{leaf}" for end in ends for leaf in leaves.get(end, ())[:16]] or [module])
    with one_deadline(), suppress(FormatError):
        found = scales(adapter.config, chain.from_iterable(paths))
        # Names leave open which parameter a wrapper is for: its scale is unknown if theirs differ.
        alike = ({found[path].scaling for path in places} for places in paths)
        return [one.pop() for one in alike if len(one) == 1]
    return []


def _format(adapter: Adapter) -> str:
    if adapter.foreign is not None:
        return f"{adapter.foreign.title} ({adapter.foreign.file})"
    method = adapter.config.peft_type if adapter.config is not None else None
    name = "PEFT LoRA" if method == "LORA" else f"PEFT {method}" if method else "unknown"
    if adapter.weights_error is not None:
        return f"{name}, weights not readable: {adapter.weights_error.reason}"
    if not adapter.weight_files:
        return f"{name}, no weights"
    return f"{name}, {'pickle' if adapter.pickled else 'safetensors'}"
