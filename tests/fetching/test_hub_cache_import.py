"""What the Hub's own client has downloaded to this machine is hashed and taken, not downloaded again."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download, snapshot_download

from lora_cli.core.reference import AdapterRef, parse
from lora_cli.errors import Corrupt, LoraCliError, NotFound, Offline, Unreachable
from lora_cli.fetching.pipeline import Fetched
from lora_cli.settings import Settings
from lora_cli.sources.registry import open_source
from lora_cli.store import Store
from lora_cli.store.partials import open_partial
from tests.bringing import bring
from tests.hf_variables import set_variables
from tests.hub_content import Content, git_blob_id
from tests.hub_server import Hub

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BYTES = os.urandom(3_000_000)
FILES: dict[str, Content] = {CONFIG: {"r": 4}, WEIGHTS: BYTES, "README.md": "read", "optimizer.pt": b"no"}
ID = "org/sql"
REF = AdapterRef("hf", ID)


class Desk:
    """A Hub, the cache of its own client, and ours."""

    def __init__(self, root: Path, hub: Hub) -> None:
        self.hub = hub
        self.theirs = root / "huggingface" / "hub"
        self.repository = self.theirs / "models--org--sql"
        self.settings = Settings(root / "cache", hub_endpoint=hub.endpoint, retries=1, timeout_s=5)
        self.commit = hub.add(ID, FILES)

    def download(self, *names: str) -> None:
        """As the Hub's own client does it: the whole snapshot, or single files."""
        for name in names:
            hf_hub_download(ID, name, endpoint=self.hub.endpoint, cache_dir=self.theirs, token=False)
        if not names:
            snapshot_download(ID, endpoint=self.hub.endpoint, cache_dir=self.theirs, token=False)
        self.hub.requests.clear()

    def blob(self, name: str) -> Path:
        return (self.repository / "snapshots" / self.commit / name).resolve()

    def bring(self, text: str = ID, *, offline: bool = False) -> Fetched:
        ref = parse(text, is_path=lambda _: False)
        settings = replace(self.settings, offline=offline)
        return bring(ref, open_source("hf", settings), Store(settings.cache_dir), settings)

    def fails(self, text: str = ID) -> LoraCliError:
        before = self.hub.connections
        with pytest.raises(LoraCliError) as caught:
            self.bring(text, offline=True)
        assert self.hub.connections == before
        return caught.value

    @property
    def asked(self) -> list[str]:
        return [request.target.partition("?")[0].rpartition("/")[2] for request in self.hub.requests]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    set_variables(monkeypatch, HF_HOME=str(tmp_path / "huggingface"), HF_HUB_DISABLE_XET="1")
    with Hub() as hub:
        yield Desk(tmp_path, hub)


def looks(folder: Path) -> dict[str, tuple[int, int, int, int]]:
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_ino, status.st_mode, status.st_nlink, status.st_mtime_ns)
    return found


def test_only_the_listing_is_asked_for_and_the_other_cache_stays_as_it_is(desk: Desk) -> None:
    desk.download()
    before = looks(desk.theirs)
    fetched = desk.bring()
    assert desk.asked == ["main"]
    assert not fetched.cached
    assert fetched.revision == desk.commit
    assert (fetched.snapshot.directory / WEIGHTS).read_bytes() == BYTES
    assert sorted(fetched.snapshot.files) == ["README.md", CONFIG, WEIGHTS]
    assert looks(desk.theirs) == before
    assert (fetched.snapshot.directory / WEIGHTS).stat().st_ino != desk.blob(WEIGHTS).stat().st_ino


def test_what_is_not_there_is_downloaded_beside_what_is(desk: Desk) -> None:
    desk.download(WEIGHTS)
    desk.bring()
    assert sorted(desk.asked[1:]) == ["README.md", CONFIG]


def test_the_place_of_the_cache_is_the_one_that_its_owner_reads(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.download()
    moved = desk.theirs.parent / "elsewhere"
    desk.theirs.rename(moved)
    set_variables(monkeypatch, HF_HUB_CACHE=str(moved))
    desk.bring()
    assert len(desk.asked) == 1


def test_what_rotted_there_is_downloaded(desk: Desk) -> None:
    desk.download()
    rotten = desk.blob(WEIGHTS)
    rotten.write_bytes(BYTES[:-1] + bytes([BYTES[-1] ^ 1]))
    text = desk.blob(CONFIG)
    text.write_bytes(b"[" + text.read_bytes()[1:])
    found = desk.bring().snapshot
    assert (found.directory / WEIGHTS).read_bytes() == BYTES
    assert git_blob_id((found.directory / CONFIG).read_bytes()) == text.name
    assert rotten.read_bytes() != BYTES


def test_what_could_not_be_read_is_downloaded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.download()
    read = os.pread

    def broken(descriptor: int, size: int, at: int) -> bytes:
        if at >= 1 << 20 and Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(desk.theirs):
            raise OSError(5, "Input/output error")
        return read(descriptor, size, at)

    monkeypatch.setattr(os, "pread", broken)
    found = desk.bring().snapshot
    assert desk.hub.count("GET cdn") > 0
    monkeypatch.undo()
    assert (found.directory / WEIGHTS).read_bytes() == BYTES


@pytest.mark.parametrize("what", ["fifo", "folder", "dangling", "loop", "short", "long"])
def test_what_is_no_plain_file_of_that_size_is_never_opened_for_long(desk: Desk, what: str) -> None:
    desk.download()
    blob = desk.blob(WEIGHTS)
    blob.unlink()
    if what == "fifo":
        os.mkfifo(blob)
    elif what == "folder":
        blob.mkdir()
    elif what in ("short", "long"):
        blob.write_bytes(BYTES[:-1] if what == "short" else BYTES + b"x")
    else:
        blob.symlink_to({"dangling": "nowhere", "loop": blob.name}[what])
    found = desk.bring().snapshot
    assert (found.directory / WEIGHTS).read_bytes() == BYTES
    assert desk.hub.count("GET cdn") > 0


def test_what_a_killed_process_left_is_gone_on_with_from_there(desk: Desk) -> None:
    desk.download()
    (weights,) = (file for file in open_source("hf", desk.settings).resolve(REF).files if file.path == WEIGHTS)
    for begun in (BYTES[:1_500_000], bytes(1_500_000)):
        shutil.rmtree(desk.settings.cache_dir, ignore_errors=True)
        partial = open_partial(Store(desk.settings.cache_dir), weights.sha256 or "", 1 << 30)
        os.write(partial.descriptor, begun)
        partial.close(keep=True)
        desk.hub.requests.clear()
        assert (desk.bring().snapshot.directory / WEIGHTS).read_bytes() == BYTES
        assert (desk.hub.count("GET cdn") == 0) == (begun == BYTES[:1_500_000])


def share_blobs(desk: Desk) -> None:
    """As later versions lay them out: Xet files lie once, and each repository links to them."""
    blob, xet_hash = desk.blob(WEIGHTS), "ab" * 32
    shared = desk.theirs / "blobs" / "ab" / xet_hash
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))


def test_a_blob_that_repositories_share_is_taken(desk: Desk) -> None:
    desk.download()
    share_blobs(desk)
    assert (desk.bring().snapshot.directory / WEIGHTS).read_bytes() == BYTES
    assert len(desk.asked) == 1


def test_where_the_file_system_can_the_bytes_are_shared(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = []

    def share(target: int, request: int, source: int) -> int:
        assert request == 0x40049409
        shared.append(os.copy_file_range(source, target, os.fstat(source).st_size, 0, 0))
        return 0

    desk.download()
    monkeypatch.setattr(fcntl, "ioctl", share)
    assert (desk.bring().snapshot.directory / WEIGHTS).read_bytes() == BYTES
    assert len(BYTES) in shared


def test_offline_what_is_there_needs_no_socket(desk: Desk) -> None:
    desk.download()
    share_blobs(desk)
    before = desk.hub.connections
    for text in (ID, f"{ID}@main", f"{ID}@{desk.commit}"):
        fetched = desk.bring(text, offline=True)
        assert fetched.revision == desk.commit
        assert (fetched.snapshot.directory / WEIGHTS).read_bytes() == BYTES
        assert sorted(fetched.snapshot.files) == ["README.md", CONFIG, WEIGHTS]
    assert desk.hub.connections == before


def test_once_online_its_listing_is_asked_for_and_then_nothing(desk: Desk) -> None:
    desk.download(CONFIG, WEIGHTS)
    pinned = f"{ID}@{desk.commit}"
    assert sorted(desk.bring(pinned, offline=True).snapshot.files) == [CONFIG, WEIGHTS]
    assert sorted(desk.bring(pinned).snapshot.files) == ["README.md", CONFIG, WEIGHTS]
    assert desk.asked == [desk.commit, "README.md"]
    desk.bring(pinned)
    assert len(desk.asked) == 2


def test_offline_a_folder_of_a_repository_is_found(desk: Desk) -> None:
    desk.commit = desk.hub.add(ID, {f"sub/{name}": content for name, content in FILES.items()})
    desk.download()
    assert sorted(desk.bring(f"hf://{ID}/sub", offline=True).snapshot.files) == ["README.md", CONFIG, WEIGHTS]
    error = desk.fails(f"hf://{ID}/other")
    assert isinstance(error, NotFound)
    assert "no folder other" in str(error)


def test_while_the_hub_is_away_the_way_to_what_is_there_is_said(desk: Desk) -> None:
    desk.download()
    desk.hub.fault("", times=-1, status=503)
    desk.settings = replace(desk.settings, retries=0)
    with pytest.raises(Unreachable) as caught:
        desk.bring()
    assert caught.value.hint == f"--offline can use the revision cached by the Hub's own client: {desk.commit}"
    desk.bring(offline=True)


@pytest.mark.parametrize("text", [ID, f"{ID}@dev", f"{ID}@{'0' * 40}", "org/other"])
def test_offline_what_is_not_there_is_said(desk: Desk, text: str) -> None:
    if text != ID:
        desk.download()
    error = desk.fails(text)
    assert isinstance(error, Offline)
    assert str(error) == f"hf://{text} is not cached and offline mode is on"
    assert "HF_HUB_OFFLINE" in error.hint


def test_offline_a_part_of_an_adapter_is_none(desk: Desk) -> None:
    desk.download(WEIGHTS)
    assert f"not cached: {CONFIG}; " in str(desk.fails())
    shutil.rmtree(desk.repository)
    desk.download(CONFIG)
    assert "not cached: the weights; " in str(desk.fails())


def test_offline_a_shard_that_is_missing_is_noticed(desk: Desk) -> None:
    shards = {f"adapter_model-0000{n}-of-00003.safetensors": f"shard {n}".encode() for n in (1, 2, 3)}
    desk.commit = desk.hub.add(ID, {CONFIG: {"r": 4}, "adapter_model.safetensors.index.json": {}, **shards})
    desk.download(CONFIG, "adapter_model.safetensors.index.json", *list(shards)[:2])
    assert "not cached: the weights; " in str(desk.fails())
    desk.download(list(shards)[2])
    assert len(desk.bring(offline=True).snapshot.files) == 5


def test_offline_a_file_of_the_listing_that_is_missing_is_named(desk: Desk) -> None:
    desk.download()
    desk.blob(WEIGHTS).unlink()
    error = desk.fails()
    assert isinstance(error, Offline)
    assert WEIGHTS in str(error)


def test_offline_what_rotted_is_never_taken(desk: Desk) -> None:
    desk.download()
    desk.blob(WEIGHTS).write_bytes(bytes(len(BYTES)))
    assert isinstance(desk.fails(), Corrupt)
