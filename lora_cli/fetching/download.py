"""The one downloader: files of a revision → blobs in the store, whatever the source."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from functools import partial as bound
from typing import TYPE_CHECKING

from lora_cli.errors import Corrupt, Refused
from lora_cli.fetching.gate import byte_limit
from lora_cli.fetching.readers import Transfer
from lora_cli.refs.snapshot import Blob, RemoteFile
from lora_cli.sources.files import Files
from lora_cli.sources.registry import endpoint_of
from lora_cli.store.disk import FULL, reflink, write_all
from lora_cli.store.inventory import tree_bytes
from lora_cli.store.partials import Partial, open_partial
from lora_cli.store.snapshots import has_blob, store_blobs

if TYPE_CHECKING:
    from lora_cli.fetching.batch import FetchContext
    from lora_cli.fetching.disk_space import Reservation
    from lora_cli.fetching.pipeline import Deadline

MAX_OPEN_FILES = 64
"""Files of one adapter that are downloaded at once."""

MISMATCH_RETRIES = 2
"""How often a file is downloaded again when its bytes are not the listed ones."""

CHUNK = 1 << 20


def download(
    at: Files, wanted: Sequence[RemoteFile], known: Mapping[str, Blob], deadline: "Deadline", context: "FetchContext"
) -> Mapping[str, Blob]:
    """Path → blob of the ``wanted`` files ``at`` an origin, each verified and in the store.

    A file whose blob is cached is not downloaded; ``known`` has those of files that are unchanged since an earlier
    fetch. After an error or a kill the next call resumes the partial files, in this process or another; when the disk
    is full they are removed.

    Raises:
        Refused: a file is larger than the limit.
        Corrupt: the bytes are not the listed ones, also after the retries; or they changed meanwhile.
        Unreachable: the origin does not answer any more, or not in time.
        MachineError: a disk error.
        LostBlob: another process cleaned up. Try again.
    """
    store, blobs, tries, endpoint = context.store, dict[str, Blob](), 0, endpoint_of(at.ref, context.settings)
    for file in wanted:
        blob = Blob(file.sha256, file.size) if file.sha256 and file.size is not None else known.get(file.path)
        if blob is not None and has_blob(store, blob):
            blobs[file.path] = blob
    missing = [(_partial_key(at, file, endpoint), file) for file in wanted if file.path not in blobs]
    here = sum(min(tree_bytes(store.partials / f"{key}.part"), file.size or 0) for key, file in missing)
    size = sum(file.size or 0 for _, file in missing)
    context.progress.began(deadline.name, size)
    with context.disk_space.reserve(deadline.name, size - here) as reserved:
        while missing:
            for first in range(0, len(missing), MAX_OPEN_FILES):
                some = missing[first : first + MAX_OPEN_FILES]
                blobs |= _download_batch(at, some, tries, reserved, deadline, context)
            missing, tries = [one for one in missing if one[1].path not in blobs], tries + 1
    return blobs


def _download_batch(
    at: Files,
    files: Sequence[tuple[str, RemoteFile]],
    tries: int,
    reserved: "Reservation",
    deadline: "Deadline",
    context: "FetchContext",
) -> dict[str, Blob]:
    """The blobs of some files, each with the key of its partials, without those that are to be downloaded again.

    After an error the partial files stay, to be resumed; not when the disk is full, the bytes are wrong, or a file
    exceeds the limit.
    """
    source, progress, limit, name = at.source, context.progress, byte_limit(context.settings), deadline.name
    transfers, blobs, failure, kept = list[Transfer](), dict[Transfer, Blob](), None, False
    try:
        for key, file in files:
            # Without a known size nothing is resumed: a partial may be longer than the file.
            digest_known = file.sha256 is not None or file.git_sha1 is not None
            partial = open_partial(context.store, key, file.size or 0, digest_known=digest_known)
            read = bound(source.read, at.revision, file)
            transfers.append(transfer := Transfer(f"{name}: {file.path}", file, partial, context.store.root, read))
            if frontier := partial.size if tries else _reuse_local_bytes(at, file, partial):
                transfer.digest(transfer.sha256)
                transfer.frontier, transfer.resumed = frontier, True
                progress.advanced(name, frontier)
        with closing(context.readers.receive(transfers, deadline)) as received:
            for transfer, chunk in received:
                reserved.left -= len(chunk)
                transfer.write(chunk, limit)
                progress.advanced(name, len(chunk))
        for transfer in transfers:
            try:
                blobs[transfer] = transfer.verified(source.reported_digests(at.revision, transfer.file))
            except Corrupt as error:
                # What was here before may be wrong although the origin is not: it gets one more try.
                if tries >= min(MISMATCH_RETRIES, context.settings.retries) + transfer.resumed:
                    failure = error
                progress.advanced(name, -transfer.frontier)
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


def _reuse_local_bytes(at: Files, file: RemoteFile, target: Partial) -> int:
    """The length of a partial file, after it was filled with bytes of this machine, shared where the disk can do that.

    The caller hashes them as a leftover's. Files of a local folder are shared or read as those of any source. Of the
    cache of huggingface_hub only files with a known digest and size are taken, as far as they can be copied.

    Raises:
        Corrupt: a local file changed meanwhile.
        MachineError: this user may not read a local file.
    """
    size, length = file.size or 0, target.size
    if length >= size:
        return length
    # The Hub's client names what it caches by the origin's own digest: a lock may have added a sha256.
    listed = at.file(file.path) or file
    with at.source.local_copy(at.revision, listed) as found:
        if found is None or (not length and reflink(found, target.descriptor)):
            return length if found is None else os.fstat(target.descriptor).st_size
        with suppress(OSError):  # the rest is fetched, and says what is wrong with the disk
            while (listed.sha256 or listed.git_sha1) and (chunk := os.pread(found, min(CHUNK, size - length), length)):
                write_all(target.descriptor, chunk, length)
                length += len(chunk)
    return os.fstat(target.descriptor).st_size


def _partial_key(at: Files, file: RemoteFile, endpoint: str) -> str:
    """The key of a file's partials: its sha256, else a hash of its origin, version and path.

    Without a digest, bytes from another server are never resumed.
    """
    if file.sha256 is not None:
        return file.sha256
    ref, version = at.ref, file.identity or at.revision.id
    text = f"{ref.scheme}\n{ref.location}\n{ref.subfolder}\n{version}\n{file.path}\n{endpoint}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
