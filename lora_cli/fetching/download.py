"""The one downloader: files of a revision → blobs in the store, whatever the source."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial as bound

from lora_cli.core.snapshot import Blob, RemoteFile, Revision
from lora_cli.errors import Corrupt, MachineError, Refused
from lora_cli.fetching.context import FetchContext
from lora_cli.fetching.demand import check_size, most_bytes
from lora_cli.fetching.local_reuse import adopt, clone, link_weights
from lora_cli.fetching.memory import Asked
from lora_cli.fetching.plan import identity
from lora_cli.fetching.progress import SILENT, Progress
from lora_cli.fetching.scheduler import Deadline
from lora_cli.fetching.transfer import Transfer
from lora_cli.sources import Source, is_hashing, is_openable, is_telling
from lora_cli.store import Store
from lora_cli.store.blobs import has_blob, keep_blob, keep_bytes
from lora_cli.store.disk import FULL, on_disk, write_pieces
from lora_cli.store.partials import Partial, drop_partial, leave_partial, leftover_bytes, open_partial

TOGETHER = 64
"""So many files are open at once."""

SMALL = 1 << 20
HELD = 2 << 20
"""Of one adapter at a time, so many bytes of files that are no larger than ``SMALL`` are held in memory."""

WRONG_TRIES = 2
"""So often a file is fetched again when other bytes came than were promised."""


@dataclass(frozen=True, slots=True)
class Job:
    """The files of one adapter, to be downloaded from ``source`` by the ``deadline``, within the limits of the run.

    Of ``known`` (path → blob) it is known that they are the same. ``left`` has for each path how many bytes of it the
    dead left.
    """

    name: str
    asked: Asked
    source: Source
    context: FetchContext
    deadline: Deadline
    known: Mapping[str, Blob] = field(default_factory=dict)
    progress: Progress = SILENT
    left: Mapping[str, int] = field(default_factory=dict)

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
        LostBlob: somebody cleaned up behind us. Try again.
    """
    files, context = job.asked.files, job.context
    check_size(job.name, sum(file.size or 0 for file in files), most_bytes(context.settings))
    blobs = {file.path: blob for file in files if (blob := _present(job, file)) is not None}
    if context.link:
        there = [file for file in files if file.path not in blobs]
        blobs |= link_weights(job.name, job.source, job.revision, job.store, there)
    missing = [file for file in files if file.path not in blobs]
    left = {file.path: leftover_bytes(job.store, job.key(file), file.size or 0) for file in missing}
    size, tries = sum(file.size or 0 for file in missing), 0
    with context.room.reserved(job.name, size, sum(left.values()), context.progress) as progress:
        job = replace(job, progress=progress, left=left)
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
            if transfer.partial is not None:
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
    if transfer.partial is None and not keep_bytes(job.store, transfer.held, blob, transfer.label):
        transfer.partial = _spilled(job, transfer)
    if transfer.partial is not None:
        keep_blob(job.store, transfer.partial.path, transfer.partial.descriptor, blob)
    return blob


def _spilled(job: Job, transfer: Transfer) -> Partial:
    """What is held in memory, in a partial file of its own.

    Raises:
        MachineError: this machine does not let us.
    """
    partial = open_partial(job.store, job.key(transfer.file), 0)
    try:
        with on_disk(f"writing {transfer.label} to", job.store.root):
            write_pieces(partial.descriptor, transfer.held)
    except BaseException:
        drop_partial(partial)
        raise
    return partial


def _check_told(job: Job, transfer: Transfer, blob: Blob) -> None:
    """Compares with what the origin said beside its listing; raises Corrupt when that is something else."""
    if is_telling(job.source):
        for place, sha256 in job.source.told(job.revision, transfer.file).items():
            if sha256 != blob.sha256:
                hint = "whoever put it there must mend either the file or what is said of it"
                raise Corrupt(f"{transfer.label}: its {place} is {sha256}, and {blob.sha256} came", hint=hint)


def _check_xet_hash(job: Job, transfer: Transfer) -> None:
    """Compares with the Xet hash that was listed, where no sha256 was; raises Corrupt when it is another one."""
    file, partial = transfer.file, transfer.partial
    if file.sha256 is not None or file.xet_hash is None or partial is None or not is_hashing(job.source):
        return
    if (found := job.source.xet_hash(partial.path, transfer.label)) != file.xet_hash:
        hint = "the Hub, or something between it and here, serves other bytes than it lists"
        raise Corrupt(f"{transfer.label}: Xet hash {file.xet_hash} was promised, {found} came", hint=hint)


@contextmanager
def _opened(job: Job, files: Sequence[RemoteFile]) -> Iterator[list[Transfer]]:
    """The files' transfers, each with its partial unless it is small; whoever takes one out closes that.

    After an error the rest is left to be gone on with, but not when the disk is full, the bytes are wrong or it is
    larger than it may be. After an interrupt a thread may still write: nothing is closed, and the files are left to be
    taken from the dead.
    """
    transfers: list[Transfer] = []
    try:
        room = HELD
        for file in files:
            held = _is_small(job, file, room)
            room -= (file.size or 0) if held else 0
            transfers.append(_transfer(job, file, held=held))
        yield transfers
    except Exception as error:
        full = isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL
        for transfer in transfers:
            if transfer.in_flight:
                # A thread that hangs in a connection may still write to it: it is left to be taken from the dead.
                continue
            _leave(job, transfer, wanted=not full and not isinstance(error, (Corrupt, Refused)))
            job.progress.ended(transfer.label)
        raise


def _is_small(job: Job, file: RemoteFile, room: int) -> bool:
    """Whether a file is held in memory until it is complete: not where a file on this disk can be shared, or is."""
    known = file.size is not None and file.size <= min(room, SMALL)
    # A Xet hash is computed of a file on the disk.
    known = known and (file.xet_hash is None or file.sha256 is not None)
    return known and not is_openable(job.source) and not job.left.get(file.path)


def _leave(job: Job, transfer: Transfer, *, wanted: bool) -> None:
    """Leaves what came of a file to be gone on with, or removes it."""
    if transfer.partial is None and wanted and transfer.held:
        with suppress(MachineError):
            transfer.partial = _spilled(job, transfer)
    if transfer.partial is not None:
        (leave_partial if wanted else drop_partial)(transfer.partial)


def _transfer(job: Job, file: RemoteFile, *, held: bool) -> Transfer:
    label = f"{job.name}: {file.path}"
    # Where no size is known, nobody can say whether what is here is all of it.
    digest_known = any(digest is not None for digest in (file.sha256, file.git_sha1, file.xet_hash))
    partial = None
    if not held:
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
