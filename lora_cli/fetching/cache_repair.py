"""``cache verify --repair``: what is corrupt or lost is fetched again from the origin in its record, by its digest."""

from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from types import NoneType

from lora_cli.errors import LoraCliError
from lora_cli.fetching.batch import fetch_all
from lora_cli.json_schema import ErrorReport, error_report
from lora_cli.refs.lock import LockedAdapter
from lora_cli.refs.reference import parse
from lora_cli.refs.request import BASE, Request, Selection
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.records import all_records
from lora_cli.store.snapshots import find_snapshot
from lora_cli.text import by_key


@dataclass(frozen=True, slots=True)
class Repaired:
    """One snapshot that is intact again, or why not; ``ref`` is where it was fetched from, if at all."""

    kind: str
    name: str
    ref: str | None = field(default_factory=NoneType)
    error: ErrorReport | None = field(default_factory=NoneType)


def repair_cache(store: Store, settings: Settings, only: Set[str] | None = None) -> Iterator[Repaired]:
    """Fetches again every recorded snapshot that is missing or corrupt, or those with a digest in ``only``.

    The records of a snapshot are tried until one origin still has the same bytes. Tokens and endpoints are those of
    this run, never from the cache.
    """
    for digest, records in sorted(by_key((record.snapshot, record) for record in all_records(store)).items()):
        if (only is not None and digest not in only) or find_snapshot(store, records[0].files) is not None:
            continue
        error: LoraCliError | None = None
        # Other selections of the same reference have the same origin.
        for record in {record.ref: record for record in records}.values():
            ref, is_base = record.ref, record.selection == str(BASE)
            # Pickles that were fetched before were allowed then.
            selection = BASE if is_base else Selection(allow_pickle=True)
            locked = LockedAdapter(ref, ref, record.revision, record.files)
            try:
                source = parse(ref, is_path=lambda _: False)
                request = Request(ref, source, digest, locked=locked, selection=selection)
                error = next(fetch_all([request], store, settings)).error
            except LoraCliError as wrong:
                error = wrong
            if error is None:
                break
        yield Repaired("snapshot", digest, ref, error_report(error))
