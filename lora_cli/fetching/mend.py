"""What ``cache verify`` found rotten, fetched again from where its records say it is from: the same bytes or none."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType

from lora_cli.core.json_schema import ErrorReport, error_report
from lora_cli.core.lock import LockedAdapter
from lora_cli.core.reference import parse
from lora_cli.core.snapshot import Blob, Snapshot
from lora_cli.errors import LoraCliError, NotFound
from lora_cli.fetching import AdapterRequest, Demand
from lora_cli.fetching.many import bring_all
from lora_cli.fetching.plan import Selection
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.blobs import LostBlob, has_blob, sha256_of
from lora_cli.store.handout import is_weights, keep_view
from lora_cli.store.inventory import files_in
from lora_cli.store.records import Record, all_records
from lora_cli.store.snapshots import find_snapshot
from lora_cli.store.verify import Verified


@dataclass(frozen=True, slots=True)
class Mended:
    """One snapshot or view that is sound again, or why it is not; ``ref`` is where it was fetched from, if at all."""

    kind: str
    name: str
    ref: str | None = field(default_factory=NoneType)
    error: ErrorReport | None = field(default_factory=NoneType)


def mend(store: Store, settings: Settings, rotten: Sequence[Verified]) -> Iterator[Mended]:
    """Brings back every snapshot that a record means and that is not whole any more, then the views of such.

    Each of a snapshot's records is tried, until one's origin still has these very bytes. Tokens and endpoints are
    those of this run, never what stands in the cache.
    """
    records = list(all_records(store))
    files = {record.snapshot: dict(record.files) for record in records}
    lost = {one.path.name for one in rotten}
    broken = sorted(
        digest
        for digest, blobs in files.items()
        if digest in lost or any(blob.sha256 in lost and not has_blob(store, blob) for blob in blobs.values())
    )
    for digest in broken:
        yield _fetched_again(store, settings, digest, [record for record in records if record.snapshot == digest])
    for one in rotten:
        if one.kind == "view" and one.moved_to is not None:
            yield _view_again(store, one.path.name, _meant(one.moved_to, files, rotten), files)


def _fetched_again(store: Store, settings: Settings, digest: str, records: Sequence[Record]) -> Mended:
    error: LoraCliError | None = None
    ref = ""
    # Other selections of the same reference have the same origin.
    for record in {record.ref: record for record in records}.values():
        ref = record.ref
        locked = LockedAdapter(ref, ref, record.revision, record.files)
        with suppress(LoraCliError):
            # They were fetched once, so somebody has allowed them.
            selection, demand = Selection(allow_pickle=True), Demand(digest, locked)
            request = AdapterRequest(parse(ref, is_path=lambda _: False), ref, selection, demand)
            (outcome,) = bring_all([request], store, settings)
            error = outcome.error
            if error is None:
                return Mended("snapshot", digest, ref)
    return Mended("snapshot", digest, ref, error_report(error or NotFound(f"{ref} is no reference")))


def _view_again(store: Store, name: str, digests: set[str], files: dict[str, dict[str, Blob]]) -> Mended:
    if len(digests) == 1:
        snapshot: Snapshot | None = find_snapshot(store, files[next(iter(digests))])
        with suppress(LostBlob):
            if snapshot is not None:
                try:
                    keep_view(store, name, snapshot)
                except LoraCliError as error:
                    return Mended("view", name, error=error_report(error))
                return Mended("view", name)
    hint = "fetch -f with its manifest makes it again"
    return Mended("view", name, error=ErrorReport(f"nothing tells what the view {name} was", hint))


def _meant(directory: Path, files: dict[str, dict[str, Blob]], rotten: Sequence[Verified]) -> set[str]:
    """The snapshots that a view which rotted can have been: of the same paths, and with the weights that it links.

    A rotten file among them is told by its name in the quarantine: it is the same inode.
    """
    names = {}
    for one in rotten:
        if one.kind == "blob" and one.moved_to is not None:
            with suppress(OSError):
                names[one.moved_to.stat(follow_symlinks=False).st_ino] = one.path.name
    found = dict(files_in(directory))
    weights = {}
    for path in filter(is_weights, found):
        with suppress(OSError):
            status = (directory / path).stat(follow_symlinks=False)
            weights[path] = names.get(status.st_ino) or sha256_of(directory / path)
    return {
        digest
        for digest, blobs in files.items()
        if blobs.keys() == found.keys() and weights and all(blobs[path].sha256 == sha for path, sha in weights.items())
    }
