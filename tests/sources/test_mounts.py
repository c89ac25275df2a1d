"""A folder on a mount that fails: what the system says has its own words and exit code."""

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from lora_cli.errors import LoraCliError, MachineError, Unreachable
from lora_cli.sources import local
from lora_cli.sources.local import LocalSource
from tests.making import write_adapter
from tests.sources.folders import content, listed


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


def failing(monkeypatch: pytest.MonkeyPatch, name: str, number: int, times: int) -> None:
    """Lets a call of the operating system fail so often."""
    real, left = getattr(os, name), [times]

    def call(*args: Any, **options: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return real(*args, **options)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("name", ["open", "pread", "scandir"])
def test_a_handle_that_went_stale_is_asked_for_again(adapter: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    waits: list[float] = []
    monkeypatch.setattr(local, "STALE_PAUSE_S", 0.125)
    monkeypatch.setattr(time, "sleep", waits.append)
    expected = (adapter / "adapter_config.json").read_bytes()
    failing(monkeypatch, name, errno.ESTALE, 2)
    assert content(listed(adapter), "adapter_config.json") == expected
    assert [one for one in waits if one >= 0.125] == [0.125, 0.25]


@pytest.mark.parametrize("name", ["open", "pread", "fstat", "scandir"])
@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.ESTALE, Unreachable, "its file server does not respond"),
        (errno.ENOTCONN, Unreachable, "its file server does not respond"),
        (errno.EIO, MachineError, "Input/output error"),
        (errno.EACCES, MachineError, "no permission to read it"),
    ],
)
def test_what_a_mount_says_has_its_own_words_and_exit_code(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, kind: type[LoraCliError], said: str
) -> None:
    monkeypatch.setattr(local, "STALE_PAUSE_S", 0.0)
    failing(monkeypatch, name, number, 1 if name == "fstat" else 3)
    with pytest.raises(kind, match=said) as caught:
        content(listed(adapter), "adapter_config.json")
    assert str(adapter) in str(caught.value)
    assert caught.value.hint


def test_a_stream_that_goes_stale_goes_on_where_it_was(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(3_000_000)
    (adapter / "big.bin").write_bytes(data)
    revision = listed(adapter)
    file = revision.file("big.bin")
    assert file is not None
    chunks = LocalSource().read(revision, file, 5, None)
    first = next(chunks)
    failing(monkeypatch, "pread", errno.ESTALE, 1)
    assert first + b"".join(chunks) == data[5:]
