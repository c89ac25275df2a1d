"""Shared by ``warm --once``, ``warm --serve`` and ``serve-bench``: admission and the plan of the process."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lora_cli.base.base_model import BaseModel
from lora_cli.base.checkpoint import has_weights
from lora_cli.cli.adapter_selection import Inputs
from lora_cli.cli.output import inform
from lora_cli.errors import MissingExtra
from lora_cli.fetching.context import SILENT, FetchContext, Progress
from lora_cli.judging.judge import Terms, fetch_one, judge_fetched
from lora_cli.judging.result import Result
from lora_cli.refs.adapter_files import BASE_CONFIG
from lora_cli.refs.reference import AdapterRef, ref_of
from lora_cli.refs.request import Request
from lora_cli.runtime.plan import Device, Forward, Plan, TierLimits
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.locks import InUse
from lora_cli.tiers.eviction import PolicyName


@dataclass(frozen=True, slots=True)
class WarmRun:
    """The options of the warm process.

    ``dummy`` is the config of a base that gets random weights, for benchmarks.
    """

    limits: TierLimits
    device: Device
    forward: Forward
    eviction: PolicyName
    dummy: Mapping[str, Any] | None = None


OnStage = Callable[[str, str], None]
"""Called with an adapter's name and a stage that begins."""


def admission_function(
    terms: Terms, settings: Settings, hold: InUse, *, on_stage: OnStage | None = None, progress: Progress = SILENT
) -> Callable[[Request], Result]:
    """The function that fetches one adapter into the cache and validates it there."""
    run = FetchContext(Store(settings.cache_dir), settings, progress, in_use=hold)

    def admit(item: Request) -> Result:
        hear = partial(on_stage, item.name) if on_stage is not None else lambda _: None
        fetched = fetch_one(item, run, hear)
        return judge_fetched(fetched, terms, settings, hear)

    return admit


def base_directory(named: str | AdapterRef) -> Path | None:
    """The local directory of the base: a path, or its snapshot in the cache of huggingface_hub; else None."""
    ref = ref_of(named)
    if ref.scheme == "hf":
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(
            ref.location, f"{ref.subfolder}/{BASE_CONFIG}".lstrip("/"), revision=ref.revision
        )
        return Path(config).parent if isinstance(config, str) else None
    directory = Path(ref.location) / ref.subfolder
    return directory if ref.scheme == "file" and directory.is_dir() else None


def has_base_weights(named: str | AdapterRef) -> bool:
    """Whether the base's weights are on this disk."""
    directory = base_directory(named)
    return directory is not None and has_weights(directory)


def require_packages(command: str, extra: str, *packages: str) -> None:
    """Raises ``MissingExtra`` if a package is not installed."""
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtra(command, extra, package)


def process_plan(inputs: Inputs, run: WarmRun, base: BaseModel) -> Plan:
    """The plan of the warm process, to be completed by ``lay_out``."""
    return Plan(
        base,
        modules=(),
        limits=run.limits,
        base_directory=base_directory(inputs.base),
        device=run.device,
        forward=run.forward,
        eviction=run.eviction,
        dummy=run.dummy,
    )


def log_stage(settings: Settings, name: str, stage: str) -> None:
    """Reports the stage of an adapter, with ``--verbose``."""
    if settings.verbose:
        inform(f"{name}: {stage}", settings)
