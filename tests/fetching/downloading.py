"""A download of scripted files, and what is left of one."""

from pathlib import Path

from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.fetching.download import Job, download
from lora_cli.fetching.pipeline import SILENT, FetchContext, Progress
from lora_cli.fetching.readers import Deadline
from lora_cli.settings import Settings
from lora_cli.store import Store
from tests.fetching.scripted import REF, Scripted

MIB = 1 << 20
WEIGHTS = "adapter_model.safetensors"


def downloaded(source: Scripted, root: Path, progress: Progress = SILENT, **settings: object) -> dict[str, bytes]:
    """Path → bytes that are in the store afterwards."""
    with context_of(root, progress, **settings) as context:
        blobs = download(job_of(source, context), context)
    return {path: context.store.blob(blob.sha256).read_bytes() for path, blob in blobs.items()}


def context_of(root: Path, progress: Progress = SILENT, **settings: object) -> FetchContext:
    """A run into the cache ``root``."""
    return FetchContext(Store(root), Settings(root, **({"jobs": 4, "retries": 2} | settings)), progress)  # type: ignore[arg-type]


def job_of(source: Scripted, context: FetchContext, *files: RemoteFile) -> Job:
    """All of ``source``, or what it is to have of ``files``."""
    revision = Revision(REF, "r", files) if files else source.resolve(REF)
    return Job("org/name", revision, revision.files, source, Deadline.of("org/name", context.settings))


def partials(root: Path) -> list[Path]:
    return [path for path in (root / "tmp").rglob("*") if path.is_file()]
