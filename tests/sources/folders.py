"""What a folder lists, as a source, and what it gives."""

from pathlib import Path

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Revision
from lora_cli.sources.local import LocalSource


def listed(folder: Path) -> Revision:
    return LocalSource().resolve(AdapterRef("file", str(folder)))


def defect(folder: Path, path: str) -> str:
    file = listed(folder).file(path)
    assert file is not None
    return file.defect


def content(revision: Revision, path: str, start: int = 0, stop: int | None = None) -> bytes:
    file = revision.file(path)
    assert file is not None
    return b"".join(LocalSource().read(revision, file, start, stop))
