"""``cache verify --repair``: corrupt files are fetched again from the origin in their records, by their digests."""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import NoneType

from lora_cli.core.adapter_request import AdapterRequest, Selection
from lora_cli.core.json_schema import ErrorReport, error_report
from lora_cli.core.lock import LockedAdapter
from lora_cli.core.reference import parse
from lora_cli.core.snapshot import Blob
from lora_cli.errors import LoraCliError, NotFound, Offline
from lora_cli.fetching.batch import fetch_all
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.atomic_swap import remove_path
from lora_cli.store.blobs import has_blob
from lora_cli.store.quarantine import quarantined
from lora_cli.store.resolution_records import Record, all_records
from lora_cli.store.snapshots import find_snapshot
from lora_cli.store.verify import Verified


@dataclass(frozen=True, slots=True)
class Repaired:
    """One snapshot that is intact again, or why not; ``ref`` is where it was fetched from, if at all."""

    kind: str
    name: str
    ref: str | None = field(default_factory=NoneType)
    error: ErrorReport | None = field(default_factory=NoneType)


def repair_cache(
    store: Store, settings: Settings, corrupt: Sequence[Verified], only: Set[str] | None = None
) -> Iterator[Repaired]:
    """Fetches again every recorded snapshot that is corrupt or in the quarantine.

    The records of a snapshot are tried until one origin still has the same bytes. Tokens and endpoints are those of
    this run, never from the cache; references are from the cache, and may use what those of a manifest may. What is
    intact again is removed from the quarantine. ``only`` has the names of what is repaired: digests and blobs (None:
    all).
    """
    settings = replace(settings, from_manifest=True)
    records = list(all_records(store))
    files = {record.snapshot: dict(record.files) for record in records}
    isolated, corrupt_names = quarantined(store), {one.path.name for one in corrupt}
    lost = corrupt_names.union(name for name, _ in isolated)
    for digest in sorted(files if only is None else files.keys() & only):
        is_lost = digest in lost and (digest in corrupt_names or find_snapshot(store, files[digest]) is None)
        if is_lost or any(one.sha256 in lost and not has_blob(store, one) for one in files[digest].values()):
            yield _fetch_again(store, settings, digest, [record for record in records if record.snapshot == digest])
    for name, path in isolated:
        if (only is None or name in only) and _is_intact(store, name, files):
            remove_path(path)


def _is_intact(store: Store, name: str, files: Mapping[str, Mapping[str, Blob]]) -> bool:
    """Whether the snapshot or blob of that name is in the cache and intact."""
    if name in files:
        return find_snapshot(store, files[name]) is not None
    return any(has_blob(store, blob) for blobs in files.values() for blob in blobs.values() if blob.sha256 == name)


def _fetch_again(store: Store, settings: Settings, digest: str, records: Sequence[Record]) -> Repaired:
    error: LoraCliError | None = None
    ref = ""
    # Other selections of the same reference have the same origin.
    for record in {record.ref: record for record in records}.values():
        ref = record.ref
        locked = LockedAdapter(ref, ref, record.revision, record.files)
        with suppress(LoraCliError):
            # Pickles that were fetched before were allowed then.
            source, selection = parse(ref, is_path=lambda _: False), Selection(allow_pickle=True)
            request = AdapterRequest(ref, source, digest, locked=locked, selection=selection)
            (outcome,) = fetch_all([request], store, settings)
            error = outcome.error
            if error is None:
                return Repaired("snapshot", digest, ref)
    if settings.offline and isinstance(error, Offline):
        hint = "--repair fetches files again: run it without --offline, LORA_CLI_OFFLINE and HF_HUB_OFFLINE"
        error = Offline(error.message, hint=hint)
    return Repaired("snapshot", digest, ref, error_report(error or NotFound(f"{ref} is not a reference")))
