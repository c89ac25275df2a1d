"""``--engine``, ``--engine-args`` and a manifest's ``engine:`` block: the engines and their launch options."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.bench.process_pool import Mapper, parallel_map
from lora_cli.cli.adapter_selection import Inputs, apply_policies, check_max_cpu_loras
from lora_cli.core.adapter_request import AdapterRequest
from lora_cli.core.base_model import BaseModel
from lora_cli.core.finding import Deployment
from lora_cli.core.inspection import Inspection
from lora_cli.core.reference import AdapterRef
from lora_cli.core.units import words_of
from lora_cli.errors import LoraCliError, UsageError
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.inventory import view_digests
from lora_cli.validation import Checked, read_all, ref_of

if TYPE_CHECKING:
    from lora_cli.core.adapter import Adapter
    from lora_cli.documents.manifest import AdapterSet
    from lora_cli.engines import Profile
    from lora_cli.validation.engine_args import LaunchConfig


def named_engines(named: Sequence[str] | None, manifest: "AdapterSet | None") -> "tuple[Profile, ...]":
    """The profiles of ``--engine``, else of the manifest's engine, each once.

    Raises:
        UsageError: an unknown engine, or not a version.
    """
    words = words_of(named or ())
    if named and not words:
        raise UsageError("--engine has no value", hint="use NAME or NAME@VERSION, or remove the option")
    spec = manifest.engine if manifest is not None else None
    if not words and spec is None:
        return ()
    from lora_cli.engines import choose_engine

    if words or spec is None or manifest is None:
        return tuple(map(choose_engine, dict.fromkeys(words)))
    try:
        return (choose_engine(spec.wanted),)
    except UsageError as error:
        raise UsageError(f"{manifest.file}: engine: {error.message}", hint=error.hint) from error


def deployment_of(
    engines: "Sequence[Profile]",
    inputs: Inputs,
    *,
    max_lora_rank: int | None,
    lora_target_modules: Sequence[str] = (),
    served_model_name: str = "",
    max_loras: int | None = None,
) -> Deployment:
    """The launch options of the engines, from the flags and the manifest.

    Raises:
        UsageError: an engine does not start with that ``max_lora_rank``.
    """
    if engines:
        from lora_cli.engines import check_max_lora_rank

        check_max_lora_rank(engines, max_lora_rank)
    return Deployment(
        max_lora_rank=max_lora_rank,
        lora_target_modules=tuple(words_of(lora_target_modules)) or None,
        served_model_name=served_model_name or None,
        max_loras=max_loras if max_loras is not None or inputs.engine is None else inputs.engine.max_loras,
        pinned=sum(item.pinned for item in inputs.items),
    )


def check_tp(base: BaseModel | None, tp: int) -> None:
    """Engines give each GPU whole attention heads.

    Raises:
        UsageError: ``tp`` does not divide the heads of ``base``.
    """
    if base is not None and base.heads is not None and base.heads % tp:
        raise UsageError(
            f"--tp {tp} does not divide the {base.heads} attention heads of {base.name}", hint="no engine would start"
        )


def engine_launch(
    text: str, inputs: Inputs, max_loras: int | None, max_cpu_loras: int | None, tp: int
) -> "LaunchConfig | None":
    """The launch options of ``--engine-args`` that are known before the adapters are read; None without an engine.

    Version and limits default to those of a manifest for the same engine.

    Raises:
        UsageError: no such engine or version, or one whose flags are not known; fewer adapters in memory than slots.
    """
    if not text:
        return None
    from lora_cli.engines import ENGINES, choose_engine
    from lora_cli.engines.slot_sizing import SlotLimits
    from lora_cli.validation.engine_args import LaunchConfig

    name, at, _ = text.strip().partition("@")
    spec = inputs.engine if inputs.engine is not None and inputs.engine.name == name.lower() else None
    profile = choose_engine(spec.wanted if spec is not None and not at else text)
    if profile.engine.slots is None:
        known = " or ".join(engine.name for engine in ENGINES.values() if engine.slots is not None)
        raise UsageError(f"the flags of {profile.engine.title} are unknown", hint=f"--engine-args {known}")
    slots = max_loras or (spec.max_loras if spec is not None else None)
    memory = max_cpu_loras or (spec.max_cpu_loras if spec is not None else None)
    check_max_cpu_loras(max_cpu_loras, slots)
    pinned = frozenset(item.name for item in inputs.items if item.pinned)
    model, revision = _model_argument(inputs.base)
    return LaunchConfig(
        profile,
        model,
        revision,
        tp,
        SlotLimits(slots, memory, len(pinned)),
        named=inputs.manifest is not None,
        pinned=pinned,
        rank=spec.max_lora_rank if spec is not None else None,
    )


def read_configs(
    inputs: Inputs, settings: Settings, mapper: Mapper = parallel_map, together: int = 0
) -> "list[tuple[str, Adapter]]":
    """The adapters of a manifest by name, with their configs only; so many are read ``together`` (0: all).

    Raises:
        LoraCliError: one cannot be read, or has no config.
    """
    reached = apply_policies(settings, inputs.manifest)
    items, size = inputs.to_validate(reached), together or len(inputs.items) or 1
    batches = [items[first : first + size] for first in range(0, len(items), size)]
    read = {name: one for part in mapper(partial(_configs, reached), batches, parallel=False) for name, one in part}
    found = []
    for name in [item.name for item in inputs.items]:
        one = read[name]
        if isinstance(one, LoraCliError):
            raise one
        if one is None or one.config is None:
            raise UsageError(f"{name} has no rank in its config", hint="lora-cli validate says why")
        found.append((name, one))
    return found


def _configs(settings: Settings, items: Sequence[AdapterRequest]) -> "list[tuple[str, Adapter | LoraCliError | None]]":
    """Each adapter, or why it cannot be read."""
    return [
        (item.name, one.error or one.adapter)
        for item, one in zip(items, read_all(items, settings, weights=False), strict=True)
    ]


def highest_ranks(adapters: "Iterable[tuple[str, Adapter]]", profile: "Profile") -> dict[str, int]:
    """The highest rank of each adapter, from its config.

    Raises:
        UsageError: one has no rank, or one that the engine does not support.
    """
    from lora_cli.rules.target_module_matching import highest_rank

    found, most = {}, max(profile.engine.ranks, default=None)
    for name, adapter in adapters:
        highest = highest_rank(adapter)
        if highest is None or highest[1] < 1:
            raise UsageError(f"{name} has no rank in its config", hint="lora-cli validate says why")
        if most is not None and highest[1] > most:
            raise UsageError(f"{name} has rank {highest[1]}, and {profile.engine.title} has at most {most}")
        found[name] = highest[1]
    return found


def _model_argument(base: str | AdapterRef) -> tuple[str, str]:
    """The ``--model`` and ``--revision`` of an engine on this machine; empty if it cannot load the base."""
    if not base:
        return "", ""
    ref = ref_of(base)
    if ref.scheme == "hf" and not ref.subfolder:
        return ref.location, ref.revision or ""
    if ref.scheme == "file" and Path(ref.location).is_dir() and ref.location.isprintable():
        return ref.location, ""
    return "", ""


def adapter_folders(
    judged: Iterable[tuple[str, tuple[Checked, Inspection | None]]], settings: Settings
) -> Mapping[str, str]:
    """The folder from which an engine on this machine can load each adapter: a local one, or one in the cache.

    ``judged`` are adapters by name. Of a cached one, the view of that name is used if it has its digest, else the
    snapshot. One that could not be read has no folder.
    """
    store = Store(settings.cache_dir.absolute())
    cached_views, found = view_digests(store), {}
    for name, (checked, inspection) in judged:
        if checked.revision is None or inspection is None:
            continue
        if checked.revision.ref.scheme == "file":
            folder = Path(checked.revision.ref.location)
        elif digest := inspection.snapshot:
            folder = store.adapters / name if cached_views.get(name) == digest else store.snapshot(digest)
        else:
            continue
        if folder.is_dir() and str(folder).isprintable():
            found[name] = str(folder)
    return found
