"""A Hub that tells less than it could: mirrors without sizes and digests, and files that lie in Xet storage."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from lora_cli.core.reference import parse
from lora_cli.errors import AccessDenied, Corrupt, LoraCliError, NotFound, Unreachable
from lora_cli.fetching.pipeline import Fetched
from lora_cli.settings import Settings
from lora_cli.sources.registry import open_source
from lora_cli.store import Store
from tests.bringing import bring
from tests.hub_content import Content
from tests.hub_server import Hub

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BYTES = os.urandom(3_000_000)
FILES: dict[str, Content] = {
    CONFIG: {"r": 4},
    WEIGHTS: BYTES,
    "README.md": "read",
    "empty.json": "",
    "other.bin": b"no",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        running.add("org/sql", FILES)
        yield running


@pytest.fixture
def settings(tmp_path: Path, hub: Hub) -> Settings:
    return Settings(tmp_path / "cache", hub_endpoint=hub.endpoint, retries=2, timeout_s=5)


def fetched(settings: Settings, text: str = "org/sql") -> Fetched:
    ref = parse(text, is_path=lambda _: False)
    return bring(ref, open_source("hf", settings), Store(settings.cache_dir), settings)


def content(found: Fetched) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in found.snapshot.directory.iterdir()}


EXPECTED = {CONFIG: b'{"r": 4}', WEIGHTS: BYTES, "README.md": b"read"}


def test_without_sizes_and_digests_everything_is_fetched_once(hub: Hub, settings: Settings) -> None:
    hub.bare = True
    first = fetched(settings)
    assert content(first) == EXPECTED
    before = hub.count("/resolve/")
    assert fetched(settings).snapshot == first.snapshot
    assert fetched(settings, f"org/sql@{first.revision}").cached
    assert hub.count("/resolve/") == before == 3


def test_without_a_size_a_body_that_is_cut_is_gone_on_with(hub: Hub, settings: Settings) -> None:
    hub.bare = True
    hub.fault(WEIGHTS, cut_at=1_000_000)
    assert content(fetched(settings)) == EXPECTED
    assert hub.requests[-1].range or any(request.range for request in hub.requests)


def test_without_a_size_a_body_that_is_always_cut_is_never_taken_for_whole(hub: Hub, settings: Settings) -> None:
    hub.bare = True
    hub.fault(WEIGHTS, times=-1, cut_at=0)
    with pytest.raises(Unreachable):
        fetched(replace(settings, retries=1))


def test_a_git_blob_id_is_held_to_also_where_no_size_is_listed(hub: Hub, settings: Settings) -> None:
    commit = hub.commit("org/sql").files
    lines = [f'{{"type": "file", "path": "{path}", "oid": "{commit[path].oid}"}}' for path in (CONFIG, "README.md")]
    hub.bare = True
    hub.fault("/tree/", times=-1, status=200, body=f"[{', '.join(lines)}]")
    assert content(fetched(settings)) == {name: EXPECTED[name] for name in (CONFIG, "README.md")}
    hub.fault("README.md", times=-1, flip_at=1)
    hub.add("org/other", FILES)
    with pytest.raises(Corrupt, match="git blob"):
        fetched(settings, "org/other")


def test_a_file_in_xet_storage_comes_over_the_bridge(hub: Hub, settings: Settings, tmp_path: Path) -> None:
    weights = hub.commit("org/sql").files[WEIGHTS]
    hub.xet[weights.sha256] = "ab" * 32
    hub.fault("GET cdn", cut_at=2_000_000)
    assert content(fetched(settings)) == EXPECTED


REFUSALS = {
    "org/missing": "RepositoryNotFoundError",
    "org/private": "RepositoryNotFoundError",
    "org/gated": "GatedRepoError",
    "org/sql@nope": "RevisionNotFoundError",
    f"org/sql@{'0' * 40}": "RevisionNotFoundError",
    "org/disabled": "DisabledRepoError",
}


@pytest.mark.parametrize("token", ["", "hf_reader"])
@pytest.mark.parametrize("text", REFUSALS)
def test_what_the_hubs_own_client_calls_an_error_is_one_of_ours(
    hub: Hub, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, token: str
) -> None:
    hub.add("org/private", FILES, private=True)
    hub.add("org/gated", FILES, gated=True)
    disabled = {"X-Error-Message": "Access to this resource is disabled."}
    hub.fault("org/disabled", times=-1, status=403, headers=disabled)
    if token:
        monkeypatch.setenv("HF_TOKEN", hub.token(token))
    id, _, revision = text.partition("@")
    theirs: BaseException | None = None
    try:
        snapshot_download(
            id, revision=revision or None, endpoint=hub.endpoint, cache_dir=tmp_path / "hf", token=token or False
        )
    except Exception as error:
        theirs = error
    while theirs is not None and type(theirs).__name__ == "LocalEntryNotFoundError":
        theirs = theirs.__cause__
    assert type(theirs).__name__ == REFUSALS[text]
    with pytest.raises((AccessDenied, NotFound)) as caught:
        fetched(settings, text)
    assert caught.value.hint
    said = {
        "GatedRepoError": "gated",
        "RevisionNotFoundError": "no branch, tag or commit",
        "DisabledRepoError": "disabled",
    }
    assert said.get(REFUSALS[text], "there is no repository") in str(caught.value)


def test_each_refusal_has_words_of_its_own(hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/gated", FILES, gated=True)
    hub.fault("org/disabled", times=-1, status=451, headers={"X-Error-Message": "Unavailable for legal reasons"})

    def told(text: str) -> tuple[str, str]:
        with pytest.raises(LoraCliError) as caught:
            fetched(settings, text)
        return re.sub(r"hf://\S+", "", str(caught.value)), caught.value.hint

    texts = ["org/missing", "org/gated", "org/sql@nope", "org/disabled"]
    strangers = [told(text) for text in texts]
    monkeypatch.setenv("HF_TOKEN", hub.token("hf_reader"))
    known = [told(text) for text in texts]
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    known.append(told("org/sql"))
    both = {told[0] for told in strangers + known}
    assert len(both) == len(strangers + known) - 2, "a revision and a ban are the same for all"


@pytest.fixture(scope="module")
def olah(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody else's mirror, in an environment of its own: it wants other versions than we do."""
    folder = tmp_path_factory.mktemp("olah")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin/pip"), "install", "-q", "olah==0.5.4"], check=True)
    return folder / "bin/olah-cli"


@pytest.mark.slow
def test_an_independent_mirror_is_read_like_the_hub(
    hub: Hub, settings: Settings, olah: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    here, upstream, cdn = f"127.0.0.1:{port}", hub.endpoint.removeprefix("http://"), hub.cdn.removeprefix("http://")
    command = [str(olah), "--host", "127.0.0.1", "--port", str(port), "--repos-path", str(tmp_path / "repos"),
               "--hf-scheme", "http", "--hf-netloc", upstream, "--hf-lfs-netloc", cdn, "--mirror-scheme", "http",
               "--mirror-netloc", here, "--mirror-lfs-netloc", here]  # fmt: skip
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(f"http://{here}/api/models/org/sql")
            mirrored = replace(settings, hub_endpoint=f"http://{here}", timeout_s=30)
            assert content(fetched(mirrored)) == EXPECTED
            again = replace(mirrored, cache_dir=tmp_path / "again")
            assert content(fetched(again)) == EXPECTED
            for text in ("org/missing", "org/sql@nope"):
                with pytest.raises((NotFound, AccessDenied)):
                    fetched(mirrored, text)
        finally:
            process.terminate()


def _wait_for(url: str) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(url)
