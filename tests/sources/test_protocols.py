"""What fsspec reads for us, over SFTP and SMB: who is let in, which host is trusted, and what cannot be read."""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import fsspec.config
import pytest

from lora_cli.core.reference import REMOTE, AdapterRef, parse
from lora_cli.errors import AccessDenied, Corrupt, LoraCliError, NotFound, Offline, Unreachable, UsageError
from lora_cli.fetching import fetch
from lora_cli.settings import Settings
from lora_cli.sources.registry import open_source
from lora_cli.store import Store
from tests.making import write_adapter
from tests.object_servers import ADMIN
from tests.smb_server import SHARE
from tests.sources.conftest import trust_host

Server = tuple[str, Path]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "cache", timeout_s=10, retries=0)


@pytest.fixture
def adapter(sftp_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AdapterRef:
    trust_host(sftp_server, tmp_path, monkeypatch)
    place, served = sftp_server
    write_adapter(served / tmp_path.name / "sql")
    return AdapterRef("sftp", f"{place}/{tmp_path.name}/sql")


def error_of(call: Callable[[], object]) -> LoraCliError:
    with pytest.raises(LoraCliError) as caught:
        call()
    return caught.value


def test_an_adapter_is_fetched(adapter: AdapterRef, settings: Settings, sftp_server: Server) -> None:
    snapshot = fetch(adapter, open_source("sftp", settings), Store(settings.cache_dir), settings)
    there = sftp_server[1] / adapter.location.partition("/")[2]
    assert {path.name: path.read_bytes() for path in snapshot.directory.iterdir()} == {
        path.name: path.read_bytes() for path in there.iterdir()
    }


def test_a_host_whose_key_nobody_knows_is_not_trusted(adapter: AdapterRef, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / ".ssh" / "known_hosts").unlink()
    error = error_of(lambda: open_source("sftp", settings).resolve(adapter))
    assert isinstance(error, AccessDenied)
    assert "is not known" in error.message
    assert "known_hosts" in error.hint


def test_a_wrong_password_is_said_and_not_repeated(
    adapter: AdapterRef, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fsspec.config.conf, "sftp", {**fsspec.config.conf["sftp"], "password": "hunter2"})
    error = error_of(lambda: open_source("sftp", settings).resolve(adapter))
    assert isinstance(error, AccessDenied)
    assert "hunter2" not in error.message + error.hint
    assert "FSSPEC_SFTP" in error.hint


def test_what_is_not_there_is_named(adapter: AdapterRef, settings: Settings) -> None:
    source = open_source("sftp", settings)
    missing = AdapterRef("sftp", f"{adapter.location}-10")
    assert isinstance(error_of(lambda: source.resolve(missing)), NotFound)
    file = AdapterRef("sftp", f"{adapter.location}/adapter_config.json")
    error = error_of(lambda: source.resolve(file))
    assert isinstance(error, UsageError)
    assert error.hint == f"write {adapter}"
    revision = source.resolve(adapter)
    assert not any(entry.defect for entry in revision.files)


def test_a_file_that_changes_between_two_ranges_is_corrupt(
    adapter: AdapterRef, settings: Settings, sftp_server: Server
) -> None:
    source = open_source("sftp", settings)
    revision = source.resolve(adapter)
    file = revision.file("adapter_model.safetensors")
    assert file is not None
    assert file.size
    first = b"".join(source.read(revision, file, 0, 100))
    os.utime(sftp_server[1] / adapter.location.partition("/")[2] / file.path, (1, 1))
    assert len(first) == 100
    assert isinstance(error_of(lambda: list(source.read(revision, file, 100, 200))), Corrupt)


def test_a_server_that_is_not_there_is_worth_another_try(adapter: AdapterRef, settings: Settings) -> None:
    error = error_of(lambda: open_source("sftp", settings).resolve(AdapterRef("sftp", "127.0.0.1:9/a")))
    assert isinstance(error, Unreachable)
    assert adapter.scheme in error.message


@pytest.fixture
def shared(smb_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AdapterRef:
    """An adapter in a share of impacket's server."""
    monkeypatch.setitem(fsspec.config.conf, "smb", {"username": ADMIN[0], "password": ADMIN[1]})
    place, served = smb_server
    write_adapter(served / tmp_path.name / "sql")
    return AdapterRef("smb", f"{place}/{SHARE}/{tmp_path.name}/sql")


def test_an_adapter_is_fetched_from_a_share(shared: AdapterRef, settings: Settings, smb_server: Server) -> None:
    snapshot = fetch(shared, open_source("smb", settings), Store(settings.cache_dir), settings)
    there = smb_server[1] / shared.location.partition(f"/{SHARE}/")[2]
    assert {path.name: path.read_bytes() for path in snapshot.directory.iterdir()} == {
        path.name: path.read_bytes() for path in there.iterdir()
    }


def test_what_a_share_answers_is_told_apart(
    shared: AdapterRef, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = shared.location.partition("/")[0]
    asked = {f"{shared.location}-10": 3, f"{place}/NONE/sql": 3, "127.0.0.1:9/LORAS/sql": 4, f"{place}": 2}
    for location, code in asked.items():
        error = error_of(partial(open_source("smb", settings).resolve, AdapterRef("smb", location)))
        assert error.exit_code == code, location
    # The client keeps who it is logged in as.
    monkeypatch.setitem(fsspec.config.conf, "smb", {"username": "mallory", "password": "hunter2"})
    error = error_of(lambda: open_source("smb", settings).resolve(shared))
    assert isinstance(error, AccessDenied)
    assert "hunter2" not in error.message + error.hint


def test_a_package_that_is_missing_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ossfs", None)
    error = error_of(lambda: open_source("oss", settings).resolve(AdapterRef("oss", "bucket/sql")))
    assert isinstance(error, UsageError)
    assert "ossfs" in error.hint


def test_offline_nothing_is_opened(adapter: AdapterRef, settings: Settings) -> None:
    source = open_source("sftp", Settings(settings.cache_dir, offline=True))
    assert isinstance(error_of(lambda: source.resolve(adapter)), Offline)


@pytest.mark.parametrize("scheme", REMOTE)
def test_every_protocol_is_one_that_fsspec_knows(scheme: str) -> None:
    from fsspec.registry import known_implementations

    assert scheme in known_implementations
    assert str(parse(f"{scheme}://host/a b/c/", is_path=lambda _: False)) == f"{scheme}://host/a b/c"


@pytest.mark.parametrize(
    "text",
    [
        "sftp://me:hunter2@host/a", "sftp:///a", "az://c/a?sig=hunter2", "sftp://h/a/../b", "az://c::zip://a",
        "ftp://host/a", "memory://a", "zip://a", "simplecache://a", "reference://a", "local://a",
    ],
)  # fmt: skip
def test_what_is_no_folder_on_another_machine_is_refused_without_repeating_a_secret(text: str) -> None:
    error = error_of(lambda: parse(text, is_path=lambda _: False))
    assert isinstance(error, UsageError)
    assert "hunter2" not in error.message + error.hint
