"""A folder as a source: what is listed, what is refused, and that a change is noticed."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli.errors import Corrupt, LoraCliError, MachineError, Unreachable
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import Revision
from lora_cli.settings import Settings
from lora_cli.sources.files import files_at
from lora_cli.sources.registry import open_source
from tests.making import write_adapter
from tests.sources.asking import content, error_of, file_of

LOCAL = open_source("file", Settings(Path("/nowhere")))


def listed(folder: Path) -> Revision:
    return LOCAL.resolve(AdapterRef("file", str(folder)))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


def test_a_file_of_the_cache_may_get_and_lose_links_and_nothing_else(adapter: Path, tmp_path: Path) -> None:
    files, weights = files_at(adapter), adapter / "adapter_model.safetensors"
    file = file_of(files.revision, weights.name)
    os.link(weights, tmp_path / "link")
    assert b"".join(files.read(file)) == weights.read_bytes()
    chunks = files.read(file)
    first = next(chunks)
    (tmp_path / "link").unlink()
    assert b"".join((first, *chunks)) == weights.read_bytes()
    os.utime(weights)
    with pytest.raises(Corrupt, match="changed while it was read"):
        list(files.read(file))


@pytest.mark.parametrize("replaced", [False, True])
def test_a_rewrite_of_the_same_size_is_noticed_though_its_time_is_set_back(adapter: Path, replaced: bool) -> None:
    weights, revision = adapter / "adapter_model.safetensors", listed(adapter)
    times, new = weights.stat(), adapter / "new" if replaced else weights
    new.write_bytes(bytes(times.st_size))
    new.replace(weights)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(Corrupt, match="changed while it was read"):
        content(LOCAL, revision, "adapter_model.safetensors")


def test_an_edit_while_reading_is_noticed_before_the_last_chunk_is_given(adapter: Path) -> None:
    (adapter / "big.bin").write_bytes(bytes(3_000_000))
    revision = listed(adapter)
    chunks = LOCAL.read(revision, file_of(revision, "big.bin"), 0, None)
    given = [next(chunks)]
    (adapter / "big.bin").write_bytes(bytes(3_000_000))
    with pytest.raises(Corrupt, match="changed"):
        given.extend(chunks)
    assert sum(map(len, given)) < 3_000_000


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "odd"
    for name in ("sub", ".git"):
        (folder / name).mkdir(parents=True)
        (folder / name / "inside").write_bytes(b"")
    (folder / "real").write_bytes(b"real")
    os.close(os.open(os.fsencode(folder) + b"/\xff", os.O_CREAT | os.O_WRONLY))
    (tmp_path / "secret").write_bytes(b"secret")
    os.mkfifo(folder / "fifo")
    links = {
        "dangling": "nowhere", "loop": "loop", "escaping": "../secret", "absolute": f"{tmp_path}/secret",
        "inside": "real", "folder": "sub", "sub/up": "..",
    }  # fmt: skip
    for name, target in links.items():
        (folder / name).symlink_to(target)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
        yield folder


def test_what_is_no_plain_file_is_listed_with_the_reason_and_never_opened(odd: Path, tmp_path: Path) -> None:
    revision = listed(odd)
    assert {file.path: file.defect for file in revision.files} == {
        "absolute": f"is a link to {tmp_path / 'secret'}, outside its folder",
        "dangling": "is a dangling link to nowhere",
        "escaping": "is a link to ../secret, outside its folder",
        "fifo": "is not a regular file",
        "inside": "",
        "loop": "is a dangling link to loop",
        "real": "",
        "socket": "is not a regular file",
        "sub/inside": "",
        "\udcff": "",
    }
    assert content(LOCAL, revision, "inside") == b"real"
    for path in ("fifo", "escaping"):
        with pytest.raises(Corrupt, match=file_of(revision, path).defect):
            content(LOCAL, revision, path)


@pytest.mark.parametrize("becomes", ["nothing", "a FIFO", "a link to a secret"])
def test_what_is_no_longer_what_was_listed_is_not_read(odd: Path, becomes: str) -> None:
    revision = listed(odd)
    (odd / "real").unlink()
    if becomes == "a FIFO":
        os.mkfifo(odd / "real")
    elif becomes != "nothing":
        (odd / "real").symlink_to("../secret")
    with pytest.raises(Corrupt, match="was removed" if becomes == "nothing" else "changed while it was read"):
        content(LOCAL, revision, "real")


def test_a_snapshot_of_the_hubs_own_cache_is_read_through_its_links(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "abc").write_bytes(b"{}")
    (snapshot / "adapter_config.json").symlink_to("../../blobs/abc")
    (snapshot / "other").symlink_to("../../../models--secret")
    (shared := tmp_path / "hub" / "blobs").mkdir()
    (shared / "def").write_bytes(b"[]")
    (snapshot / "shared").symlink_to("../../../blobs/def")
    found = [content(LOCAL, listed(snapshot), name) for name in ("adapter_config.json", "shared")]
    assert found == [b"{}", b"[]"]
    assert [file.path for file in listed(snapshot).files if file.defect] == ["other"]


MOUNTS = (
    (errno.ESTALE, Unreachable, "its file server does not respond"),
    (errno.ENOTCONN, Unreachable, "its file server does not respond"),
    (errno.EIO, MachineError, "Input/output error"),
    (errno.EACCES, MachineError, "no permission to read it"),
)


@pytest.mark.parametrize("name", ["open", "pread", "fstat", "scandir"])
@pytest.mark.parametrize(("number", "kind", "said"), MOUNTS)
def test_what_a_mount_says_has_its_own_words_and_exit_code(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, kind: type[LoraCliError], said: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, name, fail)
        error = error_of(lambda: content(LOCAL, listed(adapter), "adapter_config.json"))
    assert isinstance(error, kind)
    assert said in error.message
    assert str(adapter) in error.message
    assert error.hint
