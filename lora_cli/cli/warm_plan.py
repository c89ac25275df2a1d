"""What ``warm --once`` and ``warm --serve`` have in common: what the process is to do, and what is shown to people.

With ``--tier tmpfs:DIR`` there is a copy of each adapter in memory, by name. ``--once`` copies what was proved: a
version that fails leaves the copy of the one before it where it is. ``--serve`` copies what was accepted, before it is
loaded.
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

from lora_cli.cli.adapter_selection import Lineup
from lora_cli.cli.output import to_stderr
from lora_cli.core.adapter_files import BASE_CONFIG
from lora_cli.core.adapter_request import NAME, Item
from lora_cli.core.base_model import BaseModel
from lora_cli.core.reference import AdapterRef
from lora_cli.core.results import LoadReport
from lora_cli.core.snapshot import Snapshot
from lora_cli.core.text import safe
from lora_cli.errors import LoraCliError, MissingExtra, UsageError
from lora_cli.fetching.context import FetchContext
from lora_cli.fetching.progress import SILENT, Progress
from lora_cli.reading.base_model import has_weights
from lora_cli.runtime.plan import Device, Forward, Limits, Plan
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.in_use import InUseMarker
from lora_cli.store.tmpfs_tier import OPTION, MemoryFolder
from lora_cli.tiers.eviction.registry import PolicyName
from lora_cli.validation import Terms, ref_of
from lora_cli.validation.fetch_and_validate import Admission, fetch_in, judge_in, unheard

STAGE = "tier"
KIND = "tmpfs:"


class Copies:
    """Holds the folder of memory, and under which name each adapter is there: a manifest's, or the last of a REF's.

    Raises:
        UsageError: ``text`` is no such folder, or a name cannot be the folder of one adapter.
    """

    def __init__(self, text: str, items: Iterable[Item]) -> None:
        kind, directory = text[: len(KIND)], text[len(KIND) :]
        if kind != KIND or not directory:
            raise UsageError(f"{OPTION} is {text!r}", hint=f"{OPTION} {KIND}DIRECTORY")
        self._names = {item.name: item.name.rstrip("/").rpartition("/")[2] for item in items}
        folders = list(self._names.values())
        for name, folder in self._names.items():
            if not re.fullmatch(NAME, folder, re.ASCII) or folders.count(folder) > 1:
                hint = "give each a name in a manifest, with -f"
                raise UsageError(f"{OPTION}: {name!r} cannot be the folder of one adapter", hint=hint)
        self._folder = MemoryFolder(Path(os.path.abspath(Path(directory).expanduser())))  # noqa: PTH100 - links stay links

    def place(self, name: str) -> Path | None:
        """The folder of the adapter of that name, existing or not; None if there can be none."""
        folder = self._names.get(name, name)
        return self._folder.root / folder if re.fullmatch(NAME, folder, re.ASCII) else None

    def admitted(self, store: Store, admission: Admission) -> Admission:
        """An admission that was not refused, with its copy; where there can be none, that is its error."""
        assert admission.snapshot is not None
        copied_to, error, ms = self._keep(store, admission.name, admission.snapshot)
        stage_ms = {**admission.stage_ms, STAGE: ms}
        if error is not None:
            return replace(admission, stage_ms=stage_ms, stage=STAGE, error=error)
        return replace(admission, stage_ms=stage_ms, copied_to=copied_to)

    def proved(self, store: Store, report: LoadReport, snapshot: Snapshot) -> LoadReport:
        """The report of an adapter that was proved, with its copy; where there can be none, that is its error."""
        copied_to, error, ms = self._keep(store, report.name, snapshot)
        report = replace(report, stage_ms={**report.stage_ms, STAGE: ms})
        return replace(report, copied_to=str(copied_to)) if error is None else report.failed(STAGE, error)

    def _keep(self, store: Store, name: str, snapshot: Snapshot) -> tuple[Path | None, LoraCliError | None, float]:
        """Where the copy is, what kept it from that, and the milliseconds that it took."""
        began = time.perf_counter()
        error, place = None, self.place(name)
        try:
            if place is None:
                raise UsageError(f"{name!r} cannot be the name of a folder", hint="use another name")
            self._folder.keep(store, snapshot, place.name)
        except LoraCliError as refused:
            error = refused
        return place, error, (time.perf_counter() - began) * 1e3


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
    terms: Terms, settings: Settings, hold: InUseMarker, *, hear: Heard | None = None, progress: Progress = SILENT
) -> Callable[[Item], Admission]:
    """What brings one adapter into the cache and validates it there; ``hear`` and ``progress`` get each step."""
    run, turns = FetchContext(Store(settings.cache_dir), settings, progress, in_use=hold), count()

    def admitted(item: Item) -> Admission:
        heard, turn = unheard if hear is None else partial(hear, item.name), next(turns)
        with run.with_own_threads() as context:
            fetched = fetch_in(item, context, hear=heard, turn=turn)
        return judge_in(fetched, terms, settings, hear=heard)

    return admitted


def base_directory(named: str | AdapterRef) -> Path | None:
    """Where the base's weights may be: a directory on this disk, or one in the cache of the Hub's own client."""
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
    """Messages for the user, on standard error."""
    if not settings.quiet:
        to_stderr(safe(note))
