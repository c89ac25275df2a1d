"""What the cache makes of a web server: fetched once, told apart by what the server says, never by a guess."""

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.core.reference import parse
from lora_cli.core.request import USUAL, Selection
from lora_cli.errors import Changed, Corrupt, Offline, UsageError
from lora_cli.fetching import readers
from lora_cli.fetching.pipeline import Fetched
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.verify import verify
from tests.bringing import bring
from tests.web_server import Site, WebServer

WEIGHTS = "adapter_model.safetensors"
FILES = {
    "sql/adapter_config.json": b'{"peft_type": "LORA"}',
    f"sql/{WEIGHTS}": bytes(range(256)) * 20_000,
    "sql/README.md": b"# SQL\n",
}


class Desk:
    """A cache, a web server and the way to ask."""

    def __init__(self, cache: Path, server: WebServer) -> None:
        self.server, self.settings = server, Settings(cache, retries=1, timeout_s=5)

    def bring(self, *, offline: bool = False, folder: str = "sql", selection: Selection = USUAL) -> Fetched:
        settings = replace(self.settings, offline=offline)
        ref = parse(f"http://{self.server.place}/{folder}", is_path=os.path.lexists)
        self.server.asked.clear()
        return bring(ref, Sources(settings).of(ref), Store(settings.cache_dir), settings, selection=selection)

    @property
    def read(self) -> set[str]:
        """The files of which more than the first byte was asked for."""
        return {asked.name for asked in self.server.asked if asked.headers.get("Range") != "bytes=0-0"}


@pytest.fixture(autouse=True)
def _ranges_of_1_mib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "RANGE", 1 << 20)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with WebServer(Site(dict(FILES))) as server:
        yield Desk(tmp_path / "cache", server)


def test_a_folder_on_a_web_server_becomes_a_snapshot(desk: Desk) -> None:
    fetched = desk.bring()
    assert not fetched.cached
    assert {path.name: path.read_bytes() for path in fetched.snapshot.directory.iterdir()} == {
        path.removeprefix("sql/"): content for path, content in FILES.items()
    }
    assert not any(one.problem for one in verify(Store(desk.settings.cache_dir)))


@pytest.mark.parametrize("etag", ["strong", ""])
def test_what_is_the_same_is_not_read_again(desk: Desk, etag: str) -> None:
    desk.server.site.etag = etag
    desk.bring()
    assert desk.read
    again = desk.bring()
    assert again.cached
    assert not desk.read
    assert desk.bring(offline=True).cached
    assert not desk.server.asked


def test_only_what_changed_is_read(desk: Desk) -> None:
    first = desk.bring()
    desk.server.site.files["sql/README.md"] = b"# sql\n"
    second = desk.bring()
    assert desk.read == {"README.md"}
    assert second.snapshot.digest != first.snapshot.digest


def test_by_size_alone_nothing_is_taken_for_the_same(desk: Desk) -> None:
    desk.server.site.etag, desk.server.site.changed = "", None
    first = desk.bring()
    desk.server.site.files[f"sql/{WEIGHTS}"] = FILES[f"sql/{WEIGHTS}"][::-1]
    second = desk.bring()
    assert WEIGHTS in desk.read
    assert not second.cached
    assert (second.snapshot.directory / WEIGHTS).read_bytes() == FILES[f"sql/{WEIGHTS}"][::-1]
    assert first.snapshot.digest != second.snapshot.digest
    assert second.revision.startswith("none-")


@pytest.mark.parametrize("obeys", [True, False])
def test_an_overwrite_between_two_ranges_is_never_mixed(desk: Desk, obeys: bool) -> None:
    site, seen = desk.server.site, list[str]()
    site.obeys = obeys

    def overwrite(path: str) -> None:
        seen.append(path)
        if seen.count(f"sql/{WEIGHTS}") == 3:
            site.files[f"sql/{WEIGHTS}"] = FILES[f"sql/{WEIGHTS}"][::-1]

    site.before = overwrite
    # It is listed again, and what comes then is whole.
    assert (desk.bring().snapshot.directory / WEIGHTS).read_bytes() == FILES[f"sql/{WEIGHTS}"][::-1]


def test_what_changes_again_and_again_is_given_up(desk: Desk) -> None:
    site, count = desk.server.site, itertools.count()

    def overwrite(path: str) -> None:
        if path.endswith(WEIGHTS):
            site.files[path] = next(count).to_bytes(4, "big") + FILES[path][4:]

    site.before = overwrite
    with pytest.raises(Changed, match=WEIGHTS):
        desk.bring()
    assert not any(one.problem for one in verify(Store(desk.settings.cache_dir)))


def test_a_digest_that_the_server_says_and_does_not_keep_is_corrupt(desk: Desk) -> None:
    desk.server.site.more = lambda content: {"X-Checksum-Sha256": "ab" * 32} if len(content) > 1000 else {}
    with pytest.raises(Corrupt, match="sha256"):
        desk.bring()


def test_the_latest_checkpoint_of_a_web_server_is_nothing_that_can_be_told(desk: Desk) -> None:
    desk.server.site.files |= {path.replace("sql/", "sql/checkpoint-7/"): content for path, content in FILES.items()}
    with pytest.raises(UsageError, match="does not list its folders") as caught:
        desk.bring(selection=Selection(latest=True))
    assert "checkpoint-N" in caught.value.hint
    assert not desk.server.asked
    assert desk.bring(folder="sql/checkpoint-7").snapshot.files.keys() == desk.bring().snapshot.files.keys()


def test_what_is_not_here_is_not_asked_for_offline(desk: Desk) -> None:
    with pytest.raises(Offline):
        desk.bring(offline=True)
    assert not desk.server.asked
