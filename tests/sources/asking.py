"""What the tests of a source ask of it."""

from collections.abc import Callable

import pytest

from lora_cli.errors import LoraCliError
from lora_cli.refs.snapshot import RemoteFile, Revision
from lora_cli.sources import Source

Patch = pytest.MonkeyPatch
Kind = type[LoraCliError]


def file_of(revision: Revision, path: str) -> RemoteFile:
    file = revision.file(path)
    assert file is not None
    return file


def content(source: Source, revision: Revision, path: str, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join(source.read(revision, file_of(revision, path), start, stop))


def error_of(call: Callable[[], object]) -> LoraCliError:
    with pytest.raises(LoraCliError) as caught:
        call()
    return caught.value
