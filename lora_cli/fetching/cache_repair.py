"""``cache verify --repair``: what is corrupt or lost is fetched again from the origin in its record, by its digest."""

from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from types import NoneType

from lora_cli.errors import UsageError
from lora_cli.fetching.batch import Outcome, fetch_all
from lora_cli.json_schema import ErrorReport, error_report
from lora_cli.refs.reference import parse
from lora_cli.refs.request import BASE, LockedAdapter, Request, Selection
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
        # Other selections of the same reference have the same origin.
        for record in {record.ref: record for record in records}.values():
            # Pickles that were fetched before were allowed then.
            selection = BASE if record.selection == str(BASE) else Selection(allow_pickle=True)
            locked = LockedAdapter(record.ref, record.ref, record.revision, record.files)
            try:
                source = parse(record.ref, is_path=lambda _: False)
            except UsageError as error:  # of another version of lora-cli
                outcome = Outcome(Request(record.ref, record.ref, digest), None, error, 0.0)
                continue
            request = Request(record.ref, source, digest, locked=locked, selection=selection)
            (outcome,) = fetch_all([request], store, settings)
            if outcome.error is None:
                break
        yield Repaired("snapshot", digest, outcome.request.name, error_report(outcome.error))
