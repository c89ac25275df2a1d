"""The one downloader: files of a revision → blobs in the store, whatever the source."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial as bound

from lora_cli.core.snapshot import Blob, RemoteFile, Revision
from lora_cli.errors import Corrupt, Refused
from lora_cli.fetching.context import FetchContext
from lora_cli.fetching.file_download import Transfer
from lora_cli.fetching.file_selection import identity
from lora_cli.fetching.local_reuse import adopt, clone, link_weights
from lora_cli.fetching.progress import SILENT, Progress
from lora_cli.fetching.requirements import check_size, most_bytes
from lora_cli.fetching.resolution_history import Asked
from lora_cli.fetching.scheduler import Deadline
from lora_cli.sources import DigestSource, Source, XetHashSource
from lora_cli.store import Store
from lora_cli.store.blobs import has_blob, keep_blob
from lora_cli.store.disk import FULL
from lora_cli.store.partial_downloads import drop_partial, leave_partial, leftover_bytes, open_partial

TOGETHER = 64
"""How many files are open at once."""

WRONG_TRIES = 2
"""So often a file is fetched again when other bytes came than were promised."""


@dataclass(frozen=True, slots=True)
class Job:
    """The files of one adapter, to be downloaded from ``source`` by the ``deadline``, within the limits of the run.

    Of ``known`` (path → blob) it is known that they are the same.
    """

    name: str
    asked: Asked
    source: Source
    context: FetchContext
    deadline: Deadline
    known: Mapping[str, Blob] = field(default_factory=dict)
    progress: Progress = SILENT

    @property
    def store(self) -> Store:
        """Where they go."""
        return self.context.store

    @property
    def revision(self) -> Revision:
        """What they are of."""
        return self.asked.revision

    def key(self, file: RemoteFile) -> str:
        """The name of a file's partial bytes; what another server sent of it is never resumed without a digest."""
        return partial_key(self.revision, file, self.asked.endpoint)


def download(job: Job) -> Mapping[str, Blob]:
    """Path → blob, when all files are here and what was promised.

    A file whose blob is here already is not fetched. What is left behind by an error or a kill is gone on with by the
    next call, in this process or another; when the disk is full it is removed.

    Raises:
        Refused: they are more than they may be together.
        Corrupt: other bytes came than were promised, again and again; or they changed meanwhile.
        Unreachable: the origin does not answer any more, or not in time.
        MachineError: this machine does not let us.
        LostBlob: another process cleaned up. Try again.
    """
    files, context = job.asked.files, job.context
    check_size(job.name, sum(file.size or 0 for file in files), most_bytes(context.settings))
    blobs = {file.path: blob for file in files if (blob := _present(job, file)) is not None}
    if context.link:
        there = [file for file in files if file.path not in blobs]
        blobs |= link_weights(job.name, job.source, job.revision, job.store, there)
    missing = [file for file in files if file.path not in blobs]
    left = sum(leftover_bytes(job.store, job.key(file), file.size or 0) for file in missing)
    size, tries = sum(file.size or 0 for file in missing), 0
    with context.room.reserved(job.name, size, left, context.progress) as progress:
        job = replace(job, progress=progress)
        while missing:
            wrong: list[RemoteFile] = []
            for first in range(0, len(missing), TOGETHER):
                blobs |= _batch(job, missing[first : first + TOGETHER], wrong, tries)
            missing, tries = wrong, tries + 1
    return blobs


def _present(job: Job, file: RemoteFile) -> Blob | None:
    blob = Blob(file.sha256, file.size) if file.sha256 and file.size is not None else job.known.get(file.path)
    if blob is not None:
        job.context.hold.add(blob.sha256)
    return blob if blob is not None and has_blob(job.store, blob) else None


def _batch(job: Job, files: Sequence[RemoteFile], wrong: list[RemoteFile], tries: int) -> dict[str, Blob]:
    """Fetches some files together. Those that had other bytes than promised are added to ``wrong``."""
    blobs: dict[str, Blob] = {}
    with _opened(job, files) as transfers:
        for transfer in transfers:
            clone(job.source, job.revision, transfer)
            if tries == 0:
                adopt(job.source, job.revision, transfer)
            transfer.rehash()
            job.progress.began(transfer.label, transfer.file.size, transfer.frontier)
        job.context.scheduler.run(transfers, job.deadline)
        while transfers:
            transfer = transfers[-1]
            blob = _kept(job, transfer, tries)
            if blob is not None:
                blobs[transfer.file.path] = blob
            else:
                wrong.append(transfer.file)
            transfers.pop()
            drop_partial(transfer.partial)
            job.progress.ended(transfer.label)
    return blobs


def _kept(job: Job, transfer: Transfer, tries: int) -> Blob | None:
    """The file's blob, now in the store; None when its bytes are wrong and another try is worth it."""
    try:
        blob = transfer.verified()
        _check_told(job, transfer, blob)
        _check_xet_hash(job, transfer)
    except Corrupt:
        # What somebody else began may be wrong without the origin being so.
        if tries >= min(WRONG_TRIES, job.context.settings.retries) + transfer.resumed:
            raise
        job.progress.advanced(transfer.label, -transfer.frontier)
        return None
    job.context.hold.add(blob.sha256)
    keep_blob(job.store, transfer.partial.path, transfer.partial.descriptor, blob)
    return blob


def _check_told(job: Job, transfer: Transfer, blob: Blob) -> None:
    """Compares with what the origin said next to its listing; raises Corrupt when that is something else."""
    if isinstance(job.source, DigestSource):
        for place, sha256 in job.source.reported_digests(job.revision, transfer.file).items():
            if sha256 != blob.sha256:
                hint = "the owner of the file must fix either the file or its metadata"
                raise Corrupt(f"{transfer.label}: its {place} is {sha256}, but {blob.sha256} was received", hint=hint)


def _check_xet_hash(job: Job, transfer: Transfer) -> None:
    """Compares with the Xet hash that was listed, where no sha256 was; raises Corrupt when it is another one."""
    file = transfer.file
    if file.sha256 is not None or file.xet_hash is None or not isinstance(job.source, XetHashSource):
        return
    if (found := job.source.xet_hash(transfer.partial.path, transfer.label)) != file.xet_hash:
        hint = "the Hub, or a proxy in between, serves different bytes than it lists"
        raise Corrupt(f"{transfer.label}: expected Xet hash {file.xet_hash}, received {found}", hint=hint)


@contextmanager
def _opened(job: Job, files: Sequence[RemoteFile]) -> Iterator[list[Transfer]]:
    """The files' transfers, each with its partial; the one that takes a file out closes it.

    After an error the rest is left to be gone on with, but not when the disk is full, the bytes are wrong or it is
    larger than it may be. After an interrupt a thread may still write: nothing is closed, and the files are left to be
    taken from the dead.
    """
    transfers: list[Transfer] = []
    try:
        for file in files:
            transfers.append(_transfer(job, file))  # noqa: PERF401 - those before one that fails are left well
        yield transfers
    except Exception as error:
        full = isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL
        for transfer in transfers:
            if transfer.in_flight:
                # A thread that hangs in a connection may still write to it: it is left to be taken from the dead.
                continue
            wanted = transfer.frontier and not full and not isinstance(error, (Corrupt, Refused))
            (leave_partial if wanted else drop_partial)(transfer.partial)
            job.progress.ended(transfer.label)
        raise


def _transfer(job: Job, file: RemoteFile) -> Transfer:
    label = f"{job.name}: {file.path}"
    # Where no size is known, nobody can say whether what is here is all of it.
    digest_known = any(digest is not None for digest in (file.sha256, file.git_sha1, file.xet_hash))
    partial = open_partial(job.store, job.key(file), file.size or 0, digest_known=digest_known)
    read = bound(job.source.read, job.revision, file)
    advanced, limit = bound(job.progress.advanced, label), most_bytes(job.context.settings)
    return Transfer(label, file, partial, read, advanced, limit)


def partial_key(revision: Revision, file: RemoteFile, endpoint: str = "") -> str:
    """The name under which partial bytes of a file are kept: its sha256, else a hash of where exactly it is from."""
    if file.sha256 is not None:
        return file.sha256
    ref = revision.ref
    version = identity(revision, file) or revision.id
    text = f"{ref.scheme}\n{ref.location}\n{ref.subfolder}\n{version}\n{file.path}\n{endpoint}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
