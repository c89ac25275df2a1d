"""A download of scripted files, and what is left of one."""

import threading
from pathlib import Path

from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.fetching.context import FetchContext
from lora_cli.fetching.download import Job, download
from lora_cli.fetching.progress import SILENT, Progress
from lora_cli.fetching.scheduler import Deadline
from lora_cli.settings import Settings
from lora_cli.store import Store
from tests.fetching.scripted import REF, Scripted

MIB = 1 << 20
WEIGHTS = "adapter_model.safetensors"


class Counting(Progress):
    """Adds up what it is told."""

    def __init__(self) -> None:
        self.bytes = 0
        self.open = 0

    def began(self, file: str, size: int | None, have: int) -> None:
        self.bytes += have
        self.open += 1

    def advanced(self, file: str, count: int) -> None:
        self.bytes += count

    def ended(self, file: str) -> None:
        self.open -= 1


def downloaded(
    source: Scripted, root: Path, jobs: int = 4, retries: int = 2, max_bytes: int | None = None
) -> dict[str, bytes]:
    """Path → bytes that are in the store afterwards."""
    with context_of(root, jobs=jobs, retries=retries, max_bytes=max_bytes) as context:
        blobs = download(job_of(source, context), context)
    return {path: context.store.blob(blob.sha256).read_bytes() for path, blob in blobs.items()}


def context_of(
    root: Path, progress: Progress = SILENT, *, jobs: int = 4, retries: int = 2, max_bytes: int | None = None
) -> FetchContext:
    """A run into the cache ``root``."""
    return FetchContext(Store(root), Settings(root, jobs=jobs, retries=retries, max_bytes=max_bytes), progress)


def job_of(source: Scripted, context: FetchContext, *files: RemoteFile) -> Job:
    """All of ``source``, or what it is to have of ``files``."""
    revision = Revision(REF, "r", files) if files else source.resolve(REF)
    return Job("org/name", revision, revision.files, source, Deadline.of("org/name", context.settings))


def partials(root: Path) -> list[Path]:
    return [path for path in (root / "tmp").rglob("*") if path.is_file()]


def mend(source: Scripted) -> None:
    """From the second read on, what is promised is served."""
    if len(source.reads) > 1:
        source.served.clear()


def meet(barrier: threading.Barrier) -> None:
    barrier.wait()
