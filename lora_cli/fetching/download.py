"""The one downloader: files of a revision → blobs in the store, whatever the source."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial as bound
from typing import Any

from lora_cli.core.snapshot import Blob, RemoteFile, Revision
from lora_cli.errors import Corrupt, Refused
from lora_cli.fetching.context import FetchContext
from lora_cli.fetching.file_download import Transfer
from lora_cli.fetching.gate import byte_limit
from lora_cli.fetching.local_reuse import copy_from_hub_cache, reflink_local_file
from lora_cli.fetching.progress import SILENT, Progress
from lora_cli.fetching.scheduler import Deadline
from lora_cli.sources import DigestSource, Source
from lora_cli.store import Store
from lora_cli.store.blobs import has_blob, store_blobs
from lora_cli.store.disk import FULL
from lora_cli.store.partials import leftover_bytes, open_partial

MAX_OPEN_FILES = 64
"""Files of one adapter that are downloaded at once."""

MISMATCH_RETRIES = 2
"""How often a file is downloaded again when its bytes are not the listed ones."""


@dataclass(frozen=True, slots=True)
class Job:
    """The files of one adapter, to be downloaded from ``source`` by the ``deadline``.

    ``endpoint`` is the server that is asked. ``known`` maps paths to the blobs of files that are unchanged since an
    earlier fetch.
    """

    name: str
    revision: Revision
    files: Sequence[RemoteFile]
    source: Source
    deadline: Deadline
    endpoint: str = ""
    known: Mapping[str, Blob] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Run:
    job: Job
    context: FetchContext
    progress: Progress = SILENT

    def __getattr__(self, name: str) -> Any:
        return getattr(self.job, name)

    @property
    def store(self) -> Store:
        return self.context.store

    def key(self, file: RemoteFile) -> str:
        return partial_key(self.revision, file, self.endpoint)


def download(job: Job, context: FetchContext) -> Mapping[str, Blob]:
    """Path → blob of all files, each verified and in the store.

    A file whose blob is cached is not downloaded. After an error or a kill the next call resumes the partial files, in
    this process or another; when the disk is full they are removed.

    Raises:
        Refused: the files are larger than the limit.
        Corrupt: the bytes are not the listed ones, also after the retries; or they changed meanwhile.
        Unreachable: the origin does not answer any more, or not in time.
        MachineError: a disk error.
        LostBlob: another process cleaned up. Try again.
    """
    files = job.files
    job = _Run(job, context)
    blobs = {file.path: blob for file in files if (blob := _cached_blob(job, file)) is not None}
    missing = [file for file in files if file.path not in blobs]
    left = sum(leftover_bytes(job.store, job.key(file), file.size or 0) for file in missing)
    size, tries = sum(file.size or 0 for file in missing), 0
    with context.disk_space.reserve(job.name, size, left, context.progress) as progress:
        job = replace(job, progress=progress)
        while missing:
            wrong: list[RemoteFile] = []
            for first in range(0, len(missing), MAX_OPEN_FILES):
                blobs |= _download_batch(job, missing[first : first + MAX_OPEN_FILES], wrong, tries)
            missing, tries = wrong, tries + 1
    return blobs


def _cached_blob(job: _Run, file: RemoteFile) -> Blob | None:
    blob = Blob(file.sha256, file.size) if file.sha256 and file.size is not None else job.known.get(file.path)
    return blob if blob is not None and has_blob(job.store, blob) else None


def _download_batch(job: _Run, files: Sequence[RemoteFile], wrong: list[RemoteFile], tries: int) -> dict[str, Blob]:
    """Downloads some files combined. Those whose bytes are not the listed ones are added to ``wrong``."""
    blobs: dict[str, Blob] = {}
    with _open_transfers(job, files) as transfers:
        for transfer in transfers:
            reflink_local_file(job.source, job.revision, transfer)
            if tries == 0:
                copy_from_hub_cache(job.source, job.revision, transfer)
            transfer.rehash()
            job.progress.began(transfer.label, transfer.file.size, transfer.frontier)
        job.context.scheduler.run(transfers, job.deadline)
        while transfers:
            transfer = transfers[-1]
            blob = _verify_and_store(job, transfer, tries)
            if blob is not None:
                blobs[transfer.file.path] = blob
            else:
                wrong.append(transfer.file)
            transfers.pop()
            transfer.partial.close()
            job.progress.ended(transfer.label)
    return blobs


def _verify_and_store(job: _Run, transfer: Transfer, tries: int) -> Blob | None:
    """The file's blob, now in the store; None when its bytes are wrong and retries are left."""
    try:
        blob = transfer.verified()
        _check_metadata_digests(job, transfer, blob)
    except Corrupt:
        # A resumed partial may be wrong although the origin is not: it gets one more try.
        if tries >= min(MISMATCH_RETRIES, job.context.settings.retries) + transfer.resumed:
            raise
        job.progress.advanced(transfer.label, -transfer.frontier)
        return None
    store_blobs(job.store, [(transfer.partial.path, transfer.partial.descriptor, blob)])
    return blob


def _check_metadata_digests(job: _Run, transfer: Transfer, blob: Blob) -> None:
    """Compares with the digests in the origin's metadata; raises Corrupt when one differs."""
    if isinstance(job.source, DigestSource):
        for place, sha256 in job.source.reported_digests(job.revision, transfer.file).items():
            if sha256 != blob.sha256:
                hint = "the owner of the file must fix either the file or its metadata"
                raise Corrupt(f"{transfer.label}: its {place} is {sha256}, but {blob.sha256} was received", hint=hint)


@contextmanager
def _open_transfers(job: _Run, files: Sequence[RemoteFile]) -> Iterator[list[Transfer]]:
    """The transfers of these files, each with its partial file; who takes one out of the list closes it.

    After an error the partial files of the rest stay, to be resumed; not when the disk is full, the bytes are wrong, or
    the file exceeds the limit. After an interrupt a thread may still write: nothing is closed until this process ends,
    and the next one goes on with the files.
    """
    transfers: list[Transfer] = []
    try:
        for file in files:
            transfers.append(_open_transfer(job, file))  # noqa: PERF401 - after an error the earlier ones are closed
        yield transfers
    except Exception as error:
        full = isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL
        for transfer in transfers:
            if transfer.in_flight:
                # A thread that hangs in a connection may still write to it.
                continue
            resumable = transfer.frontier > 0 and not full and not isinstance(error, (Corrupt, Refused))
            transfer.partial.close(keep=resumable)
            job.progress.ended(transfer.label)
        raise


def _open_transfer(job: _Run, file: RemoteFile) -> Transfer:
    label = f"{job.name}: {file.path}"
    # Without a known size nothing is resumed: a partial may be longer than the file.
    digest_known = file.sha256 is not None or file.git_sha1 is not None
    partial = open_partial(job.store, job.key(file), file.size or 0, digest_known=digest_known)
    read = bound(job.source.read, job.revision, file)
    advanced, limit = bound(job.progress.advanced, label), byte_limit(job.context.settings)
    return Transfer(label, file, partial, read, advanced, limit)


def partial_key(revision: Revision, file: RemoteFile, endpoint: str = "") -> str:
    """The key of a file's partials: its sha256, else a hash of its origin, version and path."""
    if file.sha256 is not None:
        return file.sha256
    ref = revision.ref
    version = file.identity or revision.id
    text = f"{ref.scheme}\n{ref.location}\n{ref.subfolder}\n{version}\n{file.path}\n{endpoint}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
