"""``warm --once --residency``: what of each adapter's files the page cache held before the run, and holds after it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lora_cli.cli.warm_tier import Copies
from lora_cli.core.results import LoadReport, PageCache
from lora_cli.core.snapshot import Snapshot
from lora_cli.store import Store
from lora_cli.store.residency import Resident, folder_residency


class Watched:
    """Holds where each adapter's files lie, and what of them was in memory when they were first seen."""

    def __init__(self, store: Store, copies: Copies | None) -> None:
        self._store, self._copies = store, copies
        self._before: dict[str, Mapping[Path, Resident]] = {}

    def hear(self, name: str, _stage: str, snapshot: Snapshot | None) -> None:
        """Looks at an adapter's files once they are on this disk, before the run reads them."""
        if snapshot is not None and name not in self._before:
            places = self._places(name, snapshot.digest).values()
            self._before[name] = {place: folder_residency(place) for place in places}

    def told(self, report: LoadReport) -> LoadReport:
        """The report with what is in memory now, beside what was; without it where nothing came to this disk."""
        before = self._before.get(report.name)
        if before is None:
            return report
        seen: dict[str, PageCache] = {}
        for kind, place in self._places(report.name, report.digest).items():
            now = folder_residency(place)
            if now.bytes:
                seen[kind] = PageCache(now.bytes, before[place].resident_bytes, now.resident_bytes)
        return replace(report, residency=seen)

    def _places(self, name: str, digest: str) -> Mapping[str, Path]:
        copy = self._copies.place(name) if self._copies is not None else None
        places = {"snapshot": self._store.snapshot(digest), "packed": self._store.packed / digest}
        return places if copy is None else {**places, "copy": copy}
