"""What fsspec reads for us, over SFTP and by s3fs: who is let in, which host is trusted, and what cannot be read."""

import sys
from collections.abc import Callable
from pathlib import Path

import fsspec.config
import pytest
from fsspec.registry import known_implementations

from lora_cli.errors import AccessDenied, NotFound, Unreachable, UsageError
from lora_cli.refs.reference import BY_FSSPEC, AdapterRef
from lora_cli.settings import Settings
from lora_cli.sources.registry import open_source
from tests.making import write_adapter
from tests.sources.asking import Kind, Patch, error_of
from tests.sources.conftest import trust_host

Server = tuple[str, Path]


@pytest.fixture
def adapter(sftp_server: Server, tmp_path: Path, monkeypatch: Patch) -> AdapterRef:
    trust_host(sftp_server, tmp_path, monkeypatch)
    place, served = sftp_server
    write_adapter(served / tmp_path.name / "sql")
    return AdapterRef("fsspec", f"sftp://{place}/{tmp_path.name}/sql")


def wrong_password(monkeypatch: Patch, _: Path) -> None:
    monkeypatch.setitem(fsspec.config.conf, "sftp", {**fsspec.config.conf["sftp"], "password": "hunter2"})


REFUSALS: tuple[tuple[str, Callable[..., None], Kind, str], ...] = (
    ("{}-10", lambda *_: None, NotFound, "check the spelling"),
    ("{}/adapter_config.json", lambda *_: None, UsageError, "write fsspec+sftp://"),
    ("sftp://127.0.0.1:9/a", lambda *_: None, Unreachable, "check the network"),
    ("oss://bucket/sql", lambda patch, _: patch.setitem(sys.modules, "ossfs", None), UsageError, "ossfs"),
    ("{}", lambda _, home: (home / ".ssh" / "known_hosts").unlink(), AccessDenied, "known_hosts"),
    ("{}", wrong_password, AccessDenied, "FSSPEC_SFTP"),
)


@pytest.mark.parametrize(("location", "before", "kind", "hint"), REFUSALS)
def test_what_cannot_be_read_is_named_without_repeating_a_secret(
    adapter: AdapterRef, settings: Settings, tmp_path: Path, monkeypatch: Patch,
    location: str, before: Callable[..., None], kind: Kind, hint: str,
) -> None:  # fmt: skip
    before(monkeypatch, tmp_path)
    ref = AdapterRef("fsspec", location.format(adapter.location))
    error = error_of(lambda: open_source("fsspec", settings).resolve(ref))
    assert isinstance(error, kind)
    assert kind is AccessDenied or str(ref) in error.message
    assert hint in error.hint
    assert "hunter2" not in str(error)


def test_fsspec_knows_every_protocol_that_is_asked_of_it() -> None:
    assert {*known_implementations} >= BY_FSSPEC
