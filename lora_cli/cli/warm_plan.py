"""Shared by ``warm --once``, ``warm --serve`` and ``serve-bench``: admission, the plan of the process, memory copies.

``--tier tmpfs:DIR`` copies each adapter into memory, by name. ``--once`` copies an adapter after its proof: if a new
version fails, the copy of the old one stays. ``--serve`` copies an accepted adapter before it is loaded.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from lora_cli.cli.adapter_selection import Inputs
from lora_cli.cli.output import inform
from lora_cli.core.adapter_files import BASE_CONFIG
from lora_cli.core.adapter_request import NAME, AdapterRequest
from lora_cli.core.base_model import BaseModel
from lora_cli.core.log import logger
from lora_cli.core.reference import AdapterRef
from lora_cli.core.results import LoadReport
from lora_cli.core.snapshot import Snapshot
from lora_cli.core.text import shown
from lora_cli.errors import LoraCliError, MissingExtra, UsageError
from lora_cli.fetching.context import FetchContext
from lora_cli.fetching.progress import SILENT, Progress
from lora_cli.reading.base_model import has_weights
from lora_cli.runtime.plan import Device, Forward, Plan, TierLimits
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.in_use import InUseMarker
from lora_cli.store.published import base_in_config
from lora_cli.store.tmpfs_tier import OPTION, MemoryFolder
from lora_cli.tiers.eviction import PolicyName
from lora_cli.validation import Terms, ref_of
from lora_cli.validation.fetch_and_validate import Admission, fetch_adapter, ignore_stage, validate_fetched

STAGE = "tier"
log = logger(__name__)

KIND = "tmpfs:"


class TmpfsCopies:
    """The copies in the folder of ``--tier``, by the name in the manifest, or the last part of the REF.

    ``base`` is the one to serve; of a copy whose config names another one a warning is logged.

    Raises:
        UsageError: ``text`` is not ``tmpfs:DIRECTORY``, or a name cannot be the folder of one adapter.
    """

    def __init__(self, text: str, items: Iterable[AdapterRequest], base: str | AdapterRef = "") -> None:
        ref = ref_of(base) if base else None
        self._base = ref.location if ref is not None and ref.scheme == "hf" and not ref.subfolder else ""
        kind, directory = text[: len(KIND)], text[len(KIND) :]
        if kind != KIND or not directory:
            raise UsageError(f"{OPTION}: invalid value {text!r}", hint=f"{OPTION} {KIND}DIRECTORY")
        self._names = {item.name: item.name.rstrip("/").rpartition("/")[2] for item in items}
        folders = list(self._names.values())
        for name, folder in self._names.items():
            if not re.fullmatch(NAME, folder, re.ASCII) or folders.count(folder) > 1:
                hint = "give each a name in a manifest, with -f"
                raise UsageError(f"{OPTION}: {name!r} cannot be the folder of one adapter", hint=hint)
        self._folder = MemoryFolder(Path(os.path.abspath(Path(directory).expanduser())))  # noqa: PTH100 - links stay links

    def place(self, name: str) -> Path | None:
        """The folder for that adapter, whether it exists or not; None if its name cannot be a folder."""
        folder = self._names.get(name, name)
        return self._folder.root / folder if re.fullmatch(NAME, folder, re.ASCII) else None

    def admitted(self, store: Store, admission: Admission) -> Admission:
        """Copies an admitted adapter; the admission has the folder or the error."""
        assert admission.snapshot is not None
        copied_to, error, ms = self._copy(store, admission.name, admission.snapshot)
        stage_ms = {**admission.stage_ms, STAGE: ms}
        if error is not None:
            return replace(admission, stage_ms=stage_ms, stage=STAGE, error=error)
        return replace(admission, stage_ms=stage_ms, copied_to=copied_to)

    def proved(self, store: Store, report: LoadReport, snapshot: Snapshot) -> LoadReport:
        """Copies a proved adapter; the report has the folder or the error."""
        copied_to, error, ms = self._copy(store, report.name, snapshot)
        report = replace(report, stage_ms={**report.stage_ms, STAGE: ms})
        return replace(report, copied_to=str(copied_to)) if error is None else report.failed(STAGE, error)

    def _copy(self, store: Store, name: str, snapshot: Snapshot) -> tuple[Path | None, LoraCliError | None, float]:
        """Copies an adapter; gives the folder, the error if it failed, and the milliseconds."""
        began = time.perf_counter()
        error, place = None, self.place(name)
        try:
            if place is None:
                raise UsageError(f"{name!r} cannot be the name of a folder", hint="use another name")
            self._folder.keep(store, snapshot, place.name)
            if self._base and (named := base_in_config(snapshot)) != self._base:
                hint = "lora-cli repair --base-name NAME --to DIR writes it into a copy"
                log.warning("%s: its base is %s, so vLLM's resolver returns 404; %s", name, shown(named), hint)
        except LoraCliError as refused:
            error = refused
        return place, error, (time.perf_counter() - began) * 1e3


@dataclass(frozen=True, slots=True)
class WarmRun:
    """The options of the warm process, and the copies in memory, if any.

    ``dummy`` is the config of a base that gets random weights, for benchmarks.
    """

    limits: TierLimits
    device: Device
    forward: Forward
    eviction: PolicyName
    copies: TmpfsCopies | None = None
    dummy: Mapping[str, Any] | None = None


OnStage = Callable[[str, str, Snapshot | None], None]
"""Called with an adapter's name and a stage that begins, and with the snapshot once it is on this disk."""


def admission_function(
    terms: Terms, settings: Settings, hold: InUseMarker, *, on_stage: OnStage | None = None, progress: Progress = SILENT
) -> Callable[[AdapterRequest], Admission]:
    """The function that fetches one adapter into the cache and validates it there."""
    run, turns = FetchContext(Store(settings.cache_dir), settings, progress, in_use=hold), count()

    def admit(item: AdapterRequest) -> Admission:
        hear = ignore_stage if on_stage is None else partial(on_stage, item.name)
        item = replace(item, turn=next(turns))
        with run.with_own_threads() as context:
            fetched = fetch_adapter(item, context, on_stage=hear)
        return validate_fetched(fetched, terms, settings, on_stage=hear)

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


def process_plan(inputs: Inputs, run: WarmRun, base: BaseModel, settings: Settings) -> Plan:
    """The plan of the warm process, to be completed by ``lay_out``."""
    return Plan(
        base,
        modules=(),
        limits=run.limits,
        base_directory=base_directory(inputs.base),
        device=run.device,
        forward=run.forward,
        cache_dir=settings.cache_dir,
        eviction=run.eviction,
        dummy=run.dummy,
    )


def log_stage(settings: Settings, name: str, stage: str) -> None:
    """Reports the stage of an adapter, with ``--verbose``."""
    if settings.verbose:
        inform(f"{name}: {stage}", settings)
