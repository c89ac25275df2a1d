"""The one downloader: files of a revision → blobs in the store, whatever the source."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial as bound

from lora_cli.errors import Corrupt, Refused
from lora_cli.fetching.context import FetchContext
from lora_cli.fetching.disk_space import Reservation
from lora_cli.fetching.gate import byte_limit
from lora_cli.fetching.readers import Deadline, Transfer
from lora_cli.redaction import logger
from lora_cli.refs.snapshot import Blob, RemoteFile, Revision
from lora_cli.sources import Source
from lora_cli.store.disk import FULL, reflink, write_all
from lora_cli.store.partials import Partial, leftover_bytes, open_partial
from lora_cli.store.snapshots import has_blob, store_blobs

MAX_OPEN_FILES = 64
"""Files of one adapter that are downloaded at once."""

MISMATCH_RETRIES = 2
"""How often a file is downloaded again when its bytes are not the listed ones."""

CHUNK = 1 << 20

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """The ``files`` of one adapter, to be downloaded from ``source`` by the ``deadline``.

    ``endpoint`` is the server, "" for none. ``known`` maps paths to the blobs of files that are unchanged since an
    earlier fetch.
    """

    name: str
    revision: Revision
    files: Sequence[RemoteFile]
    source: Source
    deadline: Deadline
    endpoint: str = ""
    known: Mapping[str, Blob] = field(default_factory=dict)


def download(job: Job, context: FetchContext) -> Mapping[str, Blob]:
    """Path → blob of all files, each verified and in the store.

    A file whose blob is cached is not downloaded. After an error or a kill the next call resumes the partial files, in
    this process or another; when the disk is full they are removed.

    Raises:
        Refused: a file is larger than the limit.
        Corrupt: the bytes are not the listed ones, also after the retries; or they changed meanwhile.
        Unreachable: the origin does not answer any more, or not in time.
        MachineError: a disk error.
        LostBlob: another process cleaned up. Try again.
    """
    store, blobs, tries = context.store, dict[str, Blob](), 0
    for file in job.files:
        blob = Blob(file.sha256, file.size) if file.sha256 and file.size is not None else job.known.get(file.path)
        if blob is not None and has_blob(store, blob):
            blobs[file.path] = blob
    missing = [file for file in job.files if file.path not in blobs]
    keys = [partial_key(job.revision, file, job.endpoint) for file in missing]
    here = sum(leftover_bytes(store, key, file.size or 0) for key, file in zip(keys, missing, strict=True))
    size = sum(file.size or 0 for file in missing)
    context.progress.began(job.name, size)
    with context.disk_space.reserve(job.name, size - here) as reserved:
        while missing:
            for first in range(0, len(missing), MAX_OPEN_FILES):
                blobs |= _download_batch(job, context, reserved, missing[first : first + MAX_OPEN_FILES], tries)
            missing, tries = [file for file in missing if file.path not in blobs], tries + 1
    return blobs


def _download_batch(
    job: Job, context: FetchContext, reserved: Reservation, files: Sequence[RemoteFile], tries: int
) -> dict[str, Blob]:
    """The blobs of some files, without those that are to be downloaded again.

    After an error the partial files stay, to be resumed; not when the disk is full, the bytes are wrong, or a file
    exceeds the limit.
    """
    source, progress, limit = job.source, context.progress, byte_limit(context.settings)
    transfers, blobs, failure, kept = list[Transfer](), dict[Transfer, Blob](), None, False
    try:
        for file in files:
            # Without a known size nothing is resumed: a partial may be longer than the file.
            digest_known = file.sha256 is not None or file.git_sha1 is not None
            key, read = partial_key(job.revision, file, job.endpoint), bound(source.read, job.revision, file)
            partial = open_partial(context.store, key, file.size or 0, digest_known=digest_known)
            transfers.append(transfer := Transfer(f"{job.name}: {file.path}", file, partial, context.store.root, read))
            if frontier := partial.size if tries else _reuse_local_bytes(source, job.revision, file, partial):
                transfer.digest(transfer.sha256)
                transfer.frontier, transfer.resumed = frontier, True
                progress.advanced(job.name, frontier)
        with closing(context.readers.receive(transfers, job.deadline)) as received:
            for transfer, chunk in received:
                if reserved.left < len(chunk):
                    context.disk_space.add(job.name, reserved)
                reserved.left -= len(chunk)
                transfer.write(chunk, limit)
                progress.advanced(job.name, len(chunk))
        for transfer in transfers:
            try:
                blobs[transfer] = transfer.verified(source.reported_digests(job.revision, transfer.file))
            except Corrupt as error:
                # What was here before may be wrong although the origin is not: it gets one more try.
                if tries >= min(MISMATCH_RETRIES, context.settings.retries) + transfer.resumed:
                    failure = error
                progress.advanced(job.name, -transfer.frontier)
                transfer.frontier = 0
        store_blobs(context.store, [(one.partial.path, one.partial.descriptor, blob) for one, blob in blobs.items()])
        kept = True  # by the store
    except BaseException as error:
        full = isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL
        kept = not full and not isinstance(error, (Corrupt, Refused))
        raise
    finally:
        for transfer in transfers:
            transfer.partial.close(keep=kept and transfer.frontier > 0)
    if failure is not None:
        raise failure
    return {transfer.file.path: blob for transfer, blob in blobs.items()}


def _reuse_local_bytes(source: Source, revision: Revision, file: RemoteFile, target: Partial) -> int:
    """The length of a partial file, after it was filled with bytes of this machine, shared where the disk can do that.

    The caller hashes them as a leftover's. Files of a local folder are shared or read as those of any source. Of the
    cache of huggingface_hub only files with a known digest and size are taken, as far as they can be copied.

    Raises:
        Corrupt: a local file changed meanwhile.
        MachineError: this user may not read a local file.
    """
    size, at = file.size or 0, target.size
    if at >= size:
        return at
    # The Hub's client names what it caches by the origin's own digest: a lock may have added a sha256.
    listed = revision.file(file.path) or file
    with source.local_copy(revision, listed) as found:
        if found is None or (not at and reflink(found, target.descriptor)):
            return at if found is None else os.fstat(target.descriptor).st_size
        with suppress(OSError):  # the rest is fetched, and says what is wrong with the disk
            while (listed.sha256 or listed.git_sha1) and (chunk := os.pread(found, min(CHUNK, size - at), at)):
                write_all(target.descriptor, chunk, at)
                at += len(chunk)
    return os.fstat(target.descriptor).st_size


def partial_key(revision: Revision, file: RemoteFile, endpoint: str = "") -> str:
    """The key of a file's partials: its sha256, else a hash of its origin, version and path.

    Without a digest, bytes from another server are never resumed.
    """
    if file.sha256 is not None:
        return file.sha256
    ref = revision.ref
    version = file.identity or revision.id
    text = f"{ref.scheme}\n{ref.location}\n{ref.subfolder}\n{version}\n{file.path}\n{endpoint}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
