"""What ``warm --once`` and ``warm --serve`` have in common: what the process is to do, and what people are told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lora_cli.cli.lineup import Lineup
from lora_cli.cli.output import to_stderr
from lora_cli.cli.warm_tier import Copies
from lora_cli.core.base_model import BaseModel
from lora_cli.core.item import Item
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Snapshot
from lora_cli.core.text import safe
from lora_cli.errors import MissingExtra
from lora_cli.fetching import FetchContext
from lora_cli.fetching.progress import SILENT, Progress
from lora_cli.reading.base import CONFIG_FILE, has_weights
from lora_cli.runtime.plan import Device, Forward, Limits, Plan
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.holds import Hold
from lora_cli.tiers.eviction.registry import PolicyName
from lora_cli.validation import Terms, ref_of
from lora_cli.validation.admission import Admission, fetch_in, judge_in, unheard


@dataclass(frozen=True, slots=True)
class Run:
    """What the warm process is to do, with how much; and where adapters are copied to besides, if anywhere.

    ``dummy`` is the config of a base without weights that is timed all the same.
    """

    limits: Limits
    device: Device
    forward: Forward
    eviction: PolicyName
    copies: Copies | None = None
    dummy: Mapping[str, Any] | None = None


Heard = Callable[[str, str, Snapshot | None], None]
"""Hears an adapter's name and stage as that begins, and its snapshot once that is on this disk."""


def admitting(
    terms: Terms, settings: Settings, hold: Hold, *, hear: Heard | None = None, progress: Progress = SILENT
) -> Callable[[Item], Admission]:
    """What brings one adapter into the cache and judges it there; ``hear`` and ``progress`` are told."""
    store, sources = Store(settings.cache_dir), Sources(settings)

    def admitted(item: Item) -> Admission:
        heard = unheard if hear is None else partial(hear, item.name)
        with FetchContext(store, settings, progress, hold=hold, sources=sources) as context:
            fetched = fetch_in(item, context, hear=heard)
        return judge_in(fetched, terms, settings, hear=heard)

    return admitted


def base_directory(named: str | AdapterRef) -> Path | None:
    """Where the base's weights may be: a directory on this disk, or one in the cache of the Hub's own client."""
    ref = ref_of(named)
    if ref.scheme == "hf":
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(
            ref.location, f"{ref.subfolder}/{CONFIG_FILE}".lstrip("/"), revision=ref.revision
        )
        return Path(config).parent if isinstance(config, str) else None
    directory = Path(ref.location) / ref.subfolder
    return directory if ref.scheme == "file" and directory.is_dir() else None


def has_base_weights(named: str | AdapterRef) -> bool:
    """Whether the base's weights are on this disk."""
    directory = base_directory(named)
    return directory is not None and has_weights(directory)


def require_packages(command: str, extra: str, *packages: str) -> None:
    """Raises ``MissingExtra`` where one of them is not installed."""
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtra(command, extra, package)


def planned(asked: Lineup, run: Run, base: BaseModel, settings: Settings) -> Plan:
    """What the command line says of the warm process and of the base, for ``lay_out``."""
    return Plan(
        base,
        modules=(),
        limits=run.limits,
        base_directory=base_directory(asked.base),
        device=run.device,
        forward=run.forward,
        cache_dir=settings.cache_dir,
        eviction=run.eviction,
        dummy=run.dummy,
    )


def tell_stage(settings: Settings, name: str, stage: str) -> None:
    """A stage of an adapter as it begins, with ``--verbose``."""
    if settings.verbose:
        say(f"{name}: {stage}", settings)


def say(note: str, settings: Settings) -> None:
    """Talk for the user, on standard error."""
    if not settings.quiet:
        to_stderr(safe(note))
