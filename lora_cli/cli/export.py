"""``lora-cli export``: an adapter set as a serving platform reads it, pinned by its lock."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import typer

from lora_cli.cli import options
from lora_cli.cli.adapter_selection import MAX_LORAS, Inputs, apply_policies, infer_base, read_inputs
from lora_cli.cli.engine_options import engine_launch, highest_ranks, read_configs
from lora_cli.cli.options import option
from lora_cli.cli.output import check_writable, inform, write
from lora_cli.core.adapter import Adapter
from lora_cli.core.adapter_request import AdapterRequest
from lora_cli.core.text import cut, names
from lora_cli.engines.slot_sizing import Fit, Need, SlotLimits, Slots
from lora_cli.errors import NotFound, Refused, UsageError
from lora_cli.fetching.resolution_history import picked_folder
from lora_cli.reading.manifest import STDIN, lock_path
from lora_cli.render.platforms import PLATFORMS, Export, PlatformName, render_platform
from lora_cli.settings import Settings
from lora_cli.sources.registry import rule_of
from lora_cli.store import Store
from lora_cli.validation import ref_of
from lora_cli.validation.engine_args import LaunchConfig, check_pinned

PLACE = "Where the adapters are"

EXAMPLES = (
    "lora-cli export vllm-cli -f set.yaml -o serve.sh",
    "lora-cli export kserve -f set.yaml --base meta-llama/Llama-3.1-8B-Instruct --at pvc://lora-cache/cache",
    "lora-cli export aibrix -f set.yaml --served-model-name llama-3-8b --from-origin",
)


def command(
    ctx: typer.Context,
    platform: PlatformName = typer.Argument(metavar="PLATFORM", help=" | ".join(PLATFORMS)),
    manifest: Path = options.adapter_option("--manifest -f FILE", "Export the adapters of this manifest.", default=...),
    base: options.Base = "",
    at: str = option(
        "--at LOCATION",
        "The cache as the platform reads it: a path, pvc://CLAIM/FOLDER or s3://BUCKET/FOLDER (default: of the "
        "platform; of vllm-cli and sglang-cli, the cache here).",
        "",
        PLACE,
    ),
    published: bool = option("--published", "LOCATION has folders that fetch --publish wrote.", False, PLACE),
    from_origin: bool = option(
        "--from-origin", "The platform reads the source of an adapter itself, where it can.", False, PLACE
    ),
    served_model_name: str = option(
        "--served-model-name NAME", "The platform's name for the base model.", "", options.ENGINE
    ),
    output: options.OutputFile = None,
) -> None:
    """Write an adapter set as a serving platform reads it, pinned by its lock.

    Comments in the output say what the platform does not pin.
    """
    check_writable(output)
    if published and not at:
        raise UsageError(
            "--published needs --at", hint="--at FOLDER: the folder of fetch --publish, as the platform has it"
        )
    to, inputs = PLATFORMS[platform], _locked(manifest, base)
    settings: Settings = apply_policies(ctx.obj, inputs.manifest)
    inputs = infer_base(inputs, "export", settings)
    config = engine_launch(to.engine, inputs, None, None, 1)
    assert config is not None
    adapters = read_configs(inputs, settings)
    _warn_of_bases(adapters, manifest, settings)
    if to.hub and (not config.model or ref_of(inputs.base).scheme != "hf"):
        raise UsageError(f"{to.title} needs a base on the Hub", hint="--base ORG/NAME[@COMMIT]")
    served = served_model_name or config.model
    if not served and not to.here:
        raise UsageError("the base has no name", hint="--served-model-name NAME")
    export = Export(
        file=str(manifest),
        adapters=_with_folders(inputs.items, to.origins if from_origin else (), manifest, settings),
        profile=config.profile,
        fit=_fit(config, highest_ranks(adapters, config.profile)),
        model=config.model,
        revision=config.revision,
        served=served,
        at=at or to.at or (str(settings.cache_dir.absolute()) if to.here else ""),
        published=published,
        from_origin=from_origin,
        mirrored=_mirrored(inputs, settings),
    )
    if to.here and not at and not published:
        _check_cached(export, settings)
    write(render_platform(platform, export), output)
    if output is not None and str(output) != STDIN:
        inform(f"wrote {output}", settings)


def _locked(manifest: Path, base: str) -> Inputs:
    """The adapters of a manifest, all of them locked.

    Raises:
        NotFound: there is no lock.
        Refused: the lock does not have an adapter as the manifest has it.
    """
    if str(manifest) == STDIN:
        raise UsageError("export needs a manifest in a file, next to its lock", hint="-f set.yaml")
    inputs, hint = read_inputs(manifest, [], base, "export"), f"lora-cli fetch -f {manifest} writes it"
    if not inputs.has_lock:
        raise NotFound(f"there is no lock {lock_path(manifest)}", hint=hint)
    if unlocked := [item.name for item in inputs.items if item.locked is None]:
        raise Refused(f"{lock_path(manifest)} does not match {manifest}: {names(unlocked)}", hint=hint)
    return inputs


def _with_folders(
    items: Sequence[AdapterRequest], origins: Collection[str], manifest: Path, settings: Settings
) -> list[AdapterRequest]:
    """The adapters, those of a registry that the platform reads with the folder that ``fetch`` found them in.

    Raises:
        NotFound: the cache does not know the folder.
    """
    store, found = Store(settings.cache_dir), []
    for item in items:
        ref = item.ref
        if ref.scheme == "oci" and "oci" in origins and not item.selection.latest:
            folder = picked_folder(store, ref, item.selection, item.locked, settings)
            if folder is None:
                raise NotFound(f"{item.name}: its folder in the image is unknown", hint=f"lora-cli fetch -f {manifest}")
            ref = replace(ref, subfolder=folder)
        found.append(replace(item, source=ref))
    return found


def _mirrored(inputs: Inputs, settings: Settings) -> frozenset[str]:
    """The adapters that are at an ``endpoint_url`` of the manifest, which no platform knows."""
    rules = ((item.name, rule_of(item.ref, settings)) for item in inputs.items)
    return frozenset(name for name, rule in rules if rule is not None and rule.endpoint_url)


def _warn_of_bases(adapters: Sequence[tuple[str, Adapter]], manifest: Path, settings: Settings) -> None:
    """Warns if the configs of the adapters name several bases: a server has one."""
    bases = {one.config.base_model_name_or_path: name for name, one in adapters if one.config is not None}
    bases.pop(None, None)
    if len(bases) > 1:
        named = names([f"{cut(str(base))} ({name})" for base, name in bases.items()])
        inform(
            f"warning: the configs name several bases: {named}; lora-cli validate -f {manifest} checks them", settings
        )


def _fit(config: LaunchConfig, ranks: Mapping[str, int]) -> Fit:
    """The smallest limits that serve all adapters, within those of the manifest.

    Raises:
        UsageError: there are more pinned adapters than slots.
    """
    slots, limits = Slots(config.profile, None), config.limits
    check_pinned(slots, config)
    layout = slots.layout
    most = limits.slots or max(MAX_LORAS, limits.pinned) + layout.base_slots
    # SGLang does not start with more adapters than max_loaded_loras.
    memory = None if layout.flags.pins else limits.memory
    needs = [Need(name, rank, frozenset()) for name, rank in ranks.items()]
    return replace(slots.fit(needs, SlotLimits(most, memory, limits.pinned)), lora_target_modules=None)


def _check_cached(export: Export, settings: Settings) -> None:
    """Checks that this machine has the folders that an engine on it is started with.

    Raises:
        NotFound: one is not cached.
    """
    store = Store(settings.cache_dir)
    absent = [one.name for one in export.adapters if one.locked and not store.snapshot(one.locked.digest).is_dir()]
    if absent:
        hint = f"lora-cli fetch -f {export.file} --locked; or --at LOCATION, for another machine"
        raise NotFound(f"{names(absent)}: not in the cache", hint=hint)
