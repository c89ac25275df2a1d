"""What the Hub's own client has downloaded to this machine is hashed and taken, not downloaded again."""

from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download, snapshot_download

from lora_cli.errors import Corrupt, Offline
from tests.fetching.desk import BYTES, CONFIG, DATA, WEIGHTS, Desk, content
from tests.hf_variables import set_variables
from tests.hub_server import Hub

ID = "org/sql"


class Client(Desk):
    """A Hub, the cache of its own client, and ours."""

    def __init__(self, root: Path, hub: Hub) -> None:
        super().__init__(root, hub)
        self.theirs = root / "huggingface" / "hub"

    def download(self, *names: str) -> None:
        """As the Hub's own client does it: the whole snapshot, or single files."""
        for name in names:
            hf_hub_download(ID, name, endpoint=self.hub.endpoint, cache_dir=self.theirs, token=False)
        if not names:
            snapshot_download(ID, endpoint=self.hub.endpoint, cache_dir=self.theirs, token=False)
        self.hub.requests.clear()

    def blob(self, name: str) -> Path:
        return (self.theirs / "models--org--sql" / "snapshots" / self.commit / name).resolve()


@pytest.fixture
def client(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Client:
    set_variables(monkeypatch, HF_HOME=str(tmp_path / "huggingface"), HF_HUB_DISABLE_XET="1")
    return Client(tmp_path, hub)


def looks(folder: Path) -> dict[Path, tuple[int, int, int]]:
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (one.st_ino, one.st_nlink, one.st_mtime_ns) for path, one in found.items()}


def test_only_the_listing_is_asked_for_and_the_other_cache_stays_as_it_is(client: Client) -> None:
    client.download()
    before = looks(client.theirs)
    fetched = client.bring()
    assert client.hub.count() == client.hub.count("/api/") == 1
    assert (fetched.cached, fetched.revision) == (False, client.commit)
    assert content(fetched) == BYTES
    assert looks(client.theirs) == before


@pytest.mark.parametrize("what", ["rotten", "short", "long", "folder", "dangling"])
def test_what_is_not_the_listed_file_is_downloaded_and_offline_never_taken(client: Client, what: str) -> None:
    client.download()
    blob = client.blob(WEIGHTS)
    blob.unlink()
    if what == "folder":
        blob.mkdir()
    elif what == "dangling":
        blob.symlink_to("nowhere")
    else:
        blob.write_bytes({"rotten": bytes([DATA[0] ^ 1]) + DATA[1:], "short": DATA[:-1], "long": DATA + b"x"}[what])
    assert isinstance(client.fails(offline=True), Corrupt | Offline)
    assert content(client.bring()) == BYTES
    assert client.hub.count("GET cdn") > 0


def test_offline_what_is_there_needs_no_socket(client: Client) -> None:
    client.download()
    before = client.hub.connections
    for text in (ID, f"{ID}@main", f"{ID}@{client.commit}"):
        fetched = client.bring(text, offline=True)
        assert fetched.revision == client.commit
        assert content(fetched) == BYTES
    for text in (f"{ID}@dev", f"{ID}@{'0' * 40}", "org/other"):
        error = client.fails(text, offline=True)
        assert isinstance(error, Offline)
        assert str(error) == f"hf://{text} is not cached and offline mode is on"
        assert "HF_HUB_OFFLINE" in error.hint
    assert client.hub.connections == before


SHARDS = [f"adapter_model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
INDEX = "adapter_model.safetensors.index.json"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([WEIGHTS], f"not cached: {CONFIG}; "),
        ([CONFIG], "not cached: the weights; "),
        ([CONFIG, INDEX, *SHARDS[:2]], "not cached: the weights; "),
    ],
    ids=["no config", "no weights", "a shard is missing"],
)
def test_offline_a_part_of_an_adapter_is_none(client: Client, names: list[str], said: str) -> None:
    files = {CONFIG: BYTES[CONFIG], INDEX: b"{}", **dict.fromkeys(SHARDS, b"shard")}
    if INDEX in names:
        client.commit = client.hub.add(ID, dict(files))
    client.download(*names)
    error = client.fails(offline=True)
    assert isinstance(error, Offline)
    assert said in error.message
    if INDEX in names:
        client.download(SHARDS[2])
        assert content(client.bring(offline=True)) == files
