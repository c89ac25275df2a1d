"""``warm --tier tmpfs:DIR``: a copy of each adapter in memory, by name.

``--once`` copies what was proved: a version that fails leaves the copy of the one before it where it is. ``--serve``
copies what was accepted, before it is loaded.
"""

import os
import re
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from lora_cli.core.item import NAME, Item
from lora_cli.core.results import LoadReport
from lora_cli.core.snapshot import Snapshot
from lora_cli.errors import LoraCliError, UsageError
from lora_cli.store import Store
from lora_cli.store.memory import OPTION, MemoryFolder
from lora_cli.validation.admission import Admission

STAGE = "tier"
KIND = "tmpfs:"


class Copies:
    """Holds the folder of memory, and under which name each adapter lies there: a manifest's, or the last of a REF's.

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
        """Where the adapter of that name lies, or would; None where it cannot lie anywhere."""
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
        """Where the copy lies, what kept it from that, and the milliseconds that it took."""
        began = time.perf_counter()
        error, place = None, self.place(name)
        try:
            if place is None:
                raise UsageError(f"{name!r} cannot be the name of a folder", hint="give it another name")
            self._folder.keep(store, snapshot, place.name)
        except LoraCliError as refused:
            error = refused
        return place, error, (time.perf_counter() - began) * 1e3
