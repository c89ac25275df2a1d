"""A download of scripted files, and what is left of one."""

import threading
from pathlib import Path

from lora_cli.fetching.download import Job, download
from lora_cli.fetching.progress import Progress
from lora_cli.fetching.scheduler import RangeScheduler
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


def downloaded(source: Scripted, root: Path, jobs: int = 4, **how: int) -> dict[str, bytes]:
    """Path → bytes that are in the store afterwards."""
    job = job_of(source, root, **how)
    with RangeScheduler(jobs) as scheduler:
        blobs = download(job, job.revision.files, scheduler)
    return {path: job.store.blob(blob.sha256).read_bytes() for path, blob in blobs.items()}


def job_of(source: Scripted, root: Path, retries: int = 2, max_bytes: int | None = None) -> Job:
    return Job("org/name", source.resolve(REF), source, Store(root), Progress(), retries, max_bytes)


def partials(root: Path) -> list[Path]:
    return [path for path in (root / "tmp").rglob("*") if path.is_file()]


def mend(source: Scripted) -> None:
    """From the second read on, what is promised is served."""
    if len(source.reads) > 1:
        source.served.clear()


def meet(barrier: threading.Barrier) -> None:
    barrier.wait()
