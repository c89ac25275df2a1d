"""Files that the Hub has in Xet storage only: read by hf_xet in processes with a deadline, from a store on loopback."""

import gc
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import Corrupt, Refused, Unreachable
from lora_cli.fetching.pipeline import Fetched
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.registry import open_source
from lora_cli.store import Store
from tests.bringing import bring
from tests.hub_content import Content
from tests.hub_server import Hub
from tests.sources.raw_servers import forget_environment

pytestmark = pytest.mark.slow

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BYTES = os.urandom(3_000_000)
FILES: dict[str, Content] = {CONFIG: {"r": 4}, WEIGHTS: BYTES}
REF = AdapterRef("hf", "org/sql")
TOKEN = "hf_reader_0123456789"


@pytest.fixture(autouse=True)
def _no_process_of_another_test() -> None:
    gc.collect()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        running.add("org/sql", FILES)
        running.keep_in_xet("org/sql", WEIGHTS)
        yield running


@pytest.fixture
def settings(tmp_path: Path, hub: Hub) -> Settings:
    return Settings(tmp_path / "cache", hub_endpoint=hub.endpoint, retries=1, timeout_s=5)


def fetched(settings: Settings) -> Fetched:
    return bring(REF, open_source("hf", settings), Store(settings.cache_dir), settings)


def weights_at(settings: Settings) -> tuple[Source, Revision, RemoteFile]:
    source = open_source("hf", settings)
    revision = source.resolve(REF)
    file = revision.file(WEIGHTS)
    assert file is not None
    return source, revision, file


def processes(parent: int = 0) -> list[str]:
    """The ids of those that read Xet storage for ``parent``, which is this process unless it is said."""
    command = ["pgrep", "-P", str(parent or os.getpid()), "-f", "xet_process"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.split()


def test_it_is_fetched_and_its_sha256_compared(hub: Hub, settings: Settings) -> None:
    assert (fetched(settings).snapshot.directory / WEIGHTS).read_bytes() == BYTES
    assert hub.count("xet-read-token") == 1
    assert hub.count("GET cas /xorbs/") >= 1
    gc.collect()
    assert processes() == []


def test_the_hubs_token_goes_to_the_hub_and_the_one_for_the_storage_to_the_storage(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/sql", FILES, private=True)
    monkeypatch.setenv("HF_TOKEN", hub.token(TOKEN, "org/sql"))
    fetched(settings)
    asked = {(r.origin, r.target.split("/")[1], r.authorized) for r in hub.requests if "/v2/" not in r.target}
    assert asked == {("api", "api", True), ("api", "org", True), ("cas", "v1", True), ("cas", "xorbs", False)}
    assert {r.status for r in hub.requests if "/v1/" in r.target} == {200}, "it knows no token but those that it gave"


def test_the_process_is_not_told_the_hubs_token(hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/sql", FILES, private=True)
    monkeypatch.setenv("HF_TOKEN", hub.token(TOKEN, "org/sql"))
    source, revision, file = weights_at(settings)
    reading = source.read(revision, file, 0, None)
    next(iter(reading))
    (pid,) = processes()
    assert TOKEN.encode() not in Path(f"/proc/{pid}/environ").read_bytes()


def test_one_caller_after_another_reads_with_the_same_process(hub: Hub, settings: Settings) -> None:
    source, revision, file = weights_at(settings)
    for start in (0, 1_000):
        assert b"".join(source.read(revision, file, start, start + 10)) == BYTES[start : start + 10]
        assert len(processes()) == 1


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (5, 100_000), (65_535, 65_537), (2_999_999, None), (7, 7), (9, 3)])
def test_a_range_is_what_a_slice_is(hub: Hub, settings: Settings, start: int, stop: int | None) -> None:
    source, revision, file = weights_at(settings)
    chunks = list(source.read(revision, file, start, stop))
    assert b"".join(chunks) == BYTES[start:stop]
    assert all(0 < len(chunk) <= 1 << 20 for chunk in chunks)


def test_other_bytes_are_never_taken(hub: Hub, settings: Settings) -> None:
    hub.fault("GET cas /xorbs/", times=-1, flip_at=1000)
    with pytest.raises(Corrupt, match="sha256"):
        fetched(settings)


def test_a_storage_that_is_silent_is_left_at_the_timeout(hub: Hub, settings: Settings) -> None:
    hub.fault("GET cas /xorbs/", times=-1, stall_at=1000)
    began = time.monotonic()
    with pytest.raises(Unreachable, match="sent no data for 1 s"):
        fetched(replace(settings, timeout_s=1))
    assert time.monotonic() - began < 15
    gc.collect()
    assert processes() == []


def test_a_token_that_has_expired_is_asked_for_again(hub: Hub, settings: Settings) -> None:
    source, revision, file = weights_at(settings)
    assert b"".join(source.read(revision, file, 0, 9)) == BYTES[:9]
    hub.expire_signatures()
    assert b"".join(source.read(revision, file, 9, 90)) == BYTES[9:90]
    assert hub.count("xet-read-token") == 2
    assert hub.count("/resolve/") == 1


def test_a_storage_that_does_not_have_it_is_named(hub: Hub, settings: Settings) -> None:
    hub.xet_files.clear()
    with pytest.raises(Unreachable, match=r"127\S+ (failed|ended the file early)") as caught:
        fetched(settings)
    assert caught.value.hint


def test_a_storage_that_answers_with_errors_is_tried_again(hub: Hub, settings: Settings) -> None:
    hub.fault("GET cas /v1/reconstructions", times=1, status=503)
    assert (fetched(settings).snapshot.directory / WEIGHTS).read_bytes() == BYTES


@pytest.mark.parametrize("address", ["local:///tmp/cas", "", "file:///etc", "http://user@127.0.0.1:9"])
def test_an_address_that_is_none_is_not_given_to_hf_xet(hub: Hub, settings: Settings, address: str) -> None:
    told = {"X-Xet-Cas-Url": address, "X-Xet-Access-Token": "x", "X-Xet-Token-Expiration": "9999999999"}
    hub.fault("xet-read-token", times=-1, status=200, headers=told)
    before = processes()
    with pytest.raises(Unreachable, match=r"an invalid web address|gives no access to Xet storage"):
        fetched(settings)
    assert processes() == before


@pytest.mark.parametrize("proxy", ["", "http://127.0.0.1:9"])
@pytest.mark.parametrize("address", ["http://169.254.169.254", "http://[fe80::1]:80"])
def test_a_storage_at_a_forbidden_address_is_refused(
    hub: Hub, settings: Settings, address: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    forget_environment()
    told = {"X-Xet-Cas-Url": address, "X-Xet-Access-Token": "x", "X-Xet-Token-Expiration": "9999999999"}
    hub.fault("xet-read-token", times=-1, status=200, headers=told)
    before = processes()
    with pytest.raises(Refused, match="credentials"):
        fetched(settings)
    assert processes() == before
    monkeypatch.undo()
    forget_environment()


def test_a_fork_reads_with_a_process_of_its_own(hub: Hub, settings: Settings) -> None:
    source, revision, file = weights_at(settings)
    assert b"".join(source.read(revision, file, 0, 9)) == BYTES[:9]
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def read() -> None:
        theirs.send((b"".join(source.read(revision, file, 9, 99)), len(processes())))

    child = context.Process(target=read)
    child.start()
    assert ours.poll(20)
    assert ours.recv() == (BYTES[9:99], 1)
    child.join()
    assert b"".join(source.read(revision, file, 99, 999)) == BYTES[99:999]


def test_a_process_whose_parent_was_killed_ends_and_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.fault("GET cas /xorbs/", times=-1, stall_at=1000)
    (tmp_path / "tmp").mkdir()
    environ = {**os.environ, "HF_ENDPOINT": hub.endpoint, "TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-m", "lora_cli", "fetch", "org/sql", "--cache-dir", str(tmp_path / "cache")]
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as parent:
        until = time.monotonic() + 30
        while not hub.count("GET cas /xorbs/") and time.monotonic() < until:
            time.sleep(0.05)
        children = processes(parent.pid)
        parent.kill()
    assert children
    while any(Path("/proc", child).exists() for child in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(Path("/proc", child).exists() for child in children)
    assert list((tmp_path / "tmp").iterdir()) == []
