"""The Hub as a source: what it asks, what it lists, and that it reads exactly the commit that it resolved."""

import hashlib
import json
import logging
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import hf_hub_download
from huggingface_hub.hf_api import ModelInfo

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import Corrupt, NotFound, Offline, Refused, Unreachable
from lora_cli.settings import Settings
from lora_cli.sources import MOST_ENTRIES
from lora_cli.sources.hub import HubSource
from tests.hub_content import Content, git_blob_id
from tests.hub_process import hub_process
from tests.hub_server import Hub

WEIGHTS = bytes(range(256)) * 5000
CONFIG = b'{"peft_type": "LORA"}'
FILES: dict[str, Content] = {
    "adapter_config.json": CONFIG,
    "adapter_model.safetensors": WEIGHTS,
    "checkpoint-1/adapter_config.json": CONFIG,
    "checkpoint-10/adapter_config.json": b"{}",
}
ACME = AdapterRef("hf", "acme/sql-lora")
PINNED = replace(ACME, revision="0" * 40)


@pytest.fixture
def commit(hub: Hub) -> str:
    return hub.add("acme/sql-lora", FILES)


def read(source: HubSource, revision: Revision, path: str, start: int = 0, stop: int | None = None) -> bytes:
    file = revision.file(path)
    assert file is not None
    return b"".join(source.read(revision, file, start, stop))


def describe(*siblings: Any, sha: Any = "0" * 40) -> str:
    """The description of a repository."""
    return json.dumps({"sha": sha, "siblings": siblings})


def listed(hub: Hub, settings: Settings, body: str, ref: AdapterRef = PINNED) -> tuple[RemoteFile, ...]:
    """The files of a description."""
    hub.faults.clear()
    hub.fault("blobs=true", status=200, body=body)
    return HubSource(settings).resolve(ref).files


@pytest.mark.parametrize("of", [lambda commit: None, lambda commit: commit], ids=["branch", "commit"])
def test_a_revision_costs_one_request_and_a_file_no_head(
    hub: Hub, settings: Settings, commit: str, of: Callable[[str], str | None]
) -> None:
    source = HubSource(settings)
    revision = source.resolve(replace(ACME, revision=of(commit)))
    assert revision.id == commit
    asked = of(commit) or "main"
    assert [request.target for request in hub.requests] == [f"/api/models/acme/sql-lora/revision/{asked}?blobs=true"]
    assert read(source, revision, "adapter_config.json") == CONFIG
    assert [request.method for request in hub.requests] == ["GET", "GET"]


def test_sizes_and_digests_are_those_that_the_hubs_own_client_reads(hub: Hub, settings: Settings, commit: str) -> None:
    with urllib.request.urlopen(f"{hub.endpoint}/api/models/acme/sql-lora/revision/main?blobs=true") as answer:
        theirs: Any = ModelInfo(**json.load(answer)).siblings  # type: ignore[no-untyped-call]
    assert theirs is not None
    ours = HubSource(settings).resolve(ACME).files
    assert [file.path for file in ours] == [one.rfilename for one in theirs] == sorted(FILES)
    for file, one in zip(ours, theirs, strict=True):
        sha256 = one.lfs["sha256"] if one.lfs else None
        assert (file.size, file.sha256, file.git_sha1) == (one.size, sha256, None if sha256 else one.blob_id)
    assert ours[1].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert ours[0].git_sha1 == git_blob_id(CONFIG)


LARGE = " " * ((16 << 20) + 1)
MANY = describe(*({"rfilename": f"{n}.json", "size": 1} for n in range(MOST_ENTRIES + 1)))


@pytest.mark.parametrize("body", ["", LARGE, MANY], ids=["names alone", "large", "many"])
@pytest.mark.parametrize(
    ("subfolder", "pages", "paths"),
    [("", 6, sorted(FILES)), ("checkpoint-1", 1, ["adapter_config.json"])],
    ids=["all", "folder"],
)
def test_what_one_answer_does_not_hold_is_listed_by_folder_page_by_page(
    hub: Hub, settings: Settings, commit: str, body: str, subfolder: str, pages: int, paths: list[str]
) -> None:
    hub.page_size = 1
    hub.bare = not body
    if body:
        hub.fault("blobs=true", status=200, body=body.replace("0" * 40, commit))
    revision = HubSource(settings).resolve(replace(ACME, subfolder=subfolder))
    assert revision.id == commit
    assert [file.path for file in revision.files] == paths
    assert hub.count(f"/tree/{commit}") == pages
    assert hub.bare or all(file.sha256 or file.git_sha1 for file in revision.files)


def test_a_listing_that_never_ends_is_ended_and_leads_to_no_other_server(
    hub: Hub, settings: Settings, commit: str
) -> None:
    hub.bare = True
    link = '<https://huggingface.co/api?recursive=true&cursor=0>; rel="next"'
    hub.fault("/tree/", status=200, headers={"Link": link}, body="[]")
    assert len(HubSource(settings).resolve(ACME).files) == len(FILES)
    hub.fault("/tree/", times=-1, status=200, headers={"Link": link}, body="[]")
    with pytest.raises(Refused, match="200 pages"):
        HubSource(settings).resolve(ACME)
    assert hub.count("/tree/") == 202
    hub.faults.clear()
    body = "[" + ",".join(f'{{"type":"file","path":"{n}"}}' for n in range(MOST_ENTRIES + 1)) + "]"
    hub.fault("/tree/", status=200, body=body)
    with pytest.raises(Refused, match="over 10000 entries"):
        HubSource(settings).resolve(ACME)


def test_a_subfolder_is_listed_by_paths_relative_to_it(hub: Hub, settings: Settings, commit: str) -> None:
    source = HubSource(settings)
    revision = source.resolve(replace(ACME, subfolder="checkpoint-1"))
    assert [file.path for file in revision.files] == ["adapter_config.json"]
    assert read(source, revision, "adapter_config.json") == CONFIG
    for bare in (False, True):
        hub.bare = bare
        with pytest.raises(NotFound, match="folder checkpoint-2"):
            source.resolve(replace(ACME, subfolder="checkpoint-2"))


def test_names_that_need_quoting_are_quoted(hub: Hub, settings: Settings) -> None:
    name = "a folder/#1/100% ünï#code?.json"
    commit = hub.add("acme/sql-lora", {name: CONFIG}, branch="refs/pr/1")
    source = HubSource(settings)
    revision = source.resolve(replace(ACME, revision="refs/pr/1"))
    assert revision.id == commit
    assert read(source, revision, name) == CONFIG
    hub.bare = True
    folder = source.resolve(replace(ACME, revision="refs/pr/1", subfolder="a folder/#1"))
    assert read(source, folder, "100% ünï#code?.json") == CONFIG


@pytest.mark.parametrize(
    "path", ["a b.json", "Screenshot\u202f9.41\xa0AM.png", "é/😀\u200d🚀.txt", ".gitattributes", "..."]
)
def test_an_odd_but_harmless_name_is_not_refused(hub: Hub, settings: Settings, path: str) -> None:
    assert [file.path for file in listed(hub, settings, describe({"rfilename": path, "size": 1}))] == [path]


SHA256, SHA1 = "a" * 64, "b" * 40


@pytest.mark.parametrize(
    ("said", "size", "sha256", "git_sha1"),
    [
        ({"size": 3, "blobId": SHA1}, 3, None, SHA1),
        ({"size": 3, "blobId": SHA1.upper()}, 3, None, None),
        ({"size": 3, "blobId": SHA1, "lfs": {"sha256": SHA256, "size": 4}}, 4, SHA256, None),
        ({"size": 3, "blobId": SHA1, "lfs": {"sha256": SHA256[1:]}}, 3, None, None),
        ({"size": 3, "lfs": {"sha256": ["x"]}}, 3, None, None),
        *(({"size": wrong}, None, None, None) for wrong in (None, -1, True, 1.5, "7", 2**63)),
    ],
)
def test_sizes_and_digests_are_kept_only_in_their_own_form(
    hub: Hub, settings: Settings, said: dict[str, Any], size: int | None, sha256: str | None, git_sha1: str | None
) -> None:
    (file,) = listed(hub, settings, describe({"rfilename": "a", **said}))
    assert (file.size, file.sha256, file.git_sha1) == (size, sha256, git_sha1)


@pytest.mark.parametrize(
    ("place", "body", "said"),
    [
        *(("blobs", body, "returned no commit") for body in ("[]", "{}", describe(sha=7), describe(sha="../../x"))),
        *(("tree", body, "no listing") for body in ("{}", "[1]", '[{"path": 7}]', '[{"type": "file"}]', "null")),
    ],
)
def test_a_server_that_answers_something_else_is_not_a_hub(
    hub: Hub, settings: Settings, commit: str, place: str, body: str, said: str
) -> None:
    hub.bare = True
    hub.fault(place, status=200, body=body)
    with pytest.raises(Unreachable, match=said):
        HubSource(settings).resolve(ACME)


def test_a_commit_is_never_answered_with_another(hub: Hub, settings: Settings) -> None:
    with pytest.raises(Corrupt, match=f"returned commit {'1' * 40}"):
        listed(hub, settings, describe(sha="1" * 40))


def test_a_branch_that_moves_does_not_move_what_is_read(hub: Hub, settings: Settings, commit: str) -> None:
    source = HubSource(settings)
    revision = source.resolve(ACME)
    hub.add("acme/sql-lora", {"adapter_config.json": "new", "adapter_model.safetensors": "new"})
    assert read(source, revision, "adapter_config.json") == CONFIG
    assert read(source, revision, "adapter_model.safetensors") == WEIGHTS


@pytest.mark.parametrize("bare", [False, True], ids=["hub", "mirror"])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_renamed_repository_is_read_and_its_new_name_is_said(
    hub: Hub, settings: Settings, commit: str, caplog: pytest.LogCaptureFixture, status: int, bare: bool
) -> None:
    hub.rename("acme/sql-lora", "acme/sql", status=status)
    hub.bare = bare
    for ref in (ACME, replace(ACME, revision=commit)):
        caplog.clear()
        source = HubSource(settings)
        assert read(source, source.resolve(ref), "adapter_model.safetensors") == WEIGHTS
        assert [record.levelno for record in caplog.records if "hf://acme/sql" in record.message] == [logging.WARNING]
        assert "was renamed to acme/sql" in caplog.text


def test_ranges_of_one_file_ask_the_hub_once_and_share_connections(hub: Hub, settings: Settings, commit: str) -> None:
    source = HubSource(settings)
    revision = source.resolve(ACME)
    for start in range(0, 1_000_000, 50_000):
        expected = WEIGHTS[start : start + 50_000]
        assert read(source, revision, "adapter_model.safetensors", start, start + 50_000) == expected
    assert hub.count("/resolve/") == 1
    assert hub.count("GET cdn") == 20
    assert hub.connections == 2
    hub.small_files_by_redirect = True
    assert read(source, revision, "adapter_config.json") == CONFIG
    hub.expire_signatures()
    assert read(source, revision, "adapter_model.safetensors", 10, 20) == WEIGHTS[10:20]
    assert hub.count("GET api /acme/sql-lora/resolve/.*/adapter_model") == 2


def test_many_threads_read_through_one_source(hub: Hub, settings: Settings, commit: str) -> None:
    source = HubSource(settings)
    revision = source.resolve(ACME)

    def piece(start: int) -> bytes:
        return read(source, revision, "adapter_model.safetensors", start, start + 20_000)

    with ThreadPoolExecutor(16) as pool:
        assert b"".join(pool.map(piece, range(0, len(WEIGHTS), 20_000))) == WEIGHTS


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"X-Repo-Commit": "f" * 40}, "commit"),
        ({"X-Linked-Etag": '"' + "0" * 64 + '"'}, "digest"),
        ({"X-Linked-Size": "7"}, "7 bytes now"),
    ],
)
def test_another_version_is_noticed_before_its_body_is_read(
    hub: Hub, settings: Settings, commit: str, headers: dict[str, str], said: str
) -> None:
    source = HubSource(settings)
    revision = source.resolve(ACME)
    hub.fault("/resolve/", status=302, headers={**headers, "Location": f"{hub.cdn}/elsewhere"})
    with pytest.raises(Corrupt, match=said):
        read(source, revision, "adapter_model.safetensors")
    assert hub.count("GET cdn") == 0


def test_a_file_that_is_shorter_than_listed_is_corrupt(hub: Hub, settings: Settings, commit: str) -> None:
    source = HubSource(settings)
    revision = source.resolve(ACME)
    hub.fault("GET cdn", times=1, status=416)
    with pytest.raises(Corrupt, match="ends before byte 9"):
        read(source, revision, "adapter_model.safetensors", 9)
    hub.fault("GET cdn", status=200, body="short")
    with pytest.raises(Corrupt, match="it has 5 bytes now, but 1280000 were listed"):
        read(source, revision, "adapter_model.safetensors")


def test_offline_no_socket_is_opened_and_the_cache_of_the_hubs_client_is_read(
    hub: Hub, settings: Settings, commit: str
) -> None:
    revision = HubSource(settings).resolve(ACME)
    before, offline = hub.connections, HubSource(replace(settings, offline=True))
    with pytest.raises(Offline, match="acme/sql-lora"):
        offline.resolve(ACME)
    with pytest.raises(Offline, match=r"adapter_config\.json is not cached"):
        read(offline, revision, "adapter_config.json")
    assert hub.connections == before
    hf_hub_download("acme/sql-lora", "adapter_model.safetensors", endpoint=hub.endpoint, token=False)
    before = hub.connections
    revision = offline.resolve(ACME)
    assert not revision.whole
    (file,) = revision.files
    for start, stop in ((0, None), (7, 9), (len(WEIGHTS) - 1, len(WEIGHTS) + 9), (len(WEIGHTS), None), (9, 3)):
        chunks = list(offline.read(revision, file, start, stop))
        assert b"".join(chunks) == WEIGHTS[start:stop]
        assert all(0 < len(chunk) <= 1 << 20 for chunk in chunks)
    assert hub.connections == before


def test_the_real_client_is_not_imported_and_http_only_when_a_request_is_made(tmp_path: Path) -> None:
    (tmp_path / "acme/sql-lora").mkdir(parents=True)
    (tmp_path / "acme/sql-lora/adapter_config.json").write_bytes(CONFIG)
    program = """
import sys
from pathlib import Path
from lora_cli.core.reference import AdapterRef
from lora_cli.settings import Settings
from lora_cli.sources.hub import HubSource
source = HubSource(Settings(Path("/nowhere"), hub_endpoint=sys.argv[1]))
assert "http.client" not in sys.modules
assert len(source.resolve(AdapterRef("hf", "acme/sql-lora")).files) == 1
assert "httpx2" not in sys.modules
assert "huggingface_hub.utils" not in sys.modules
"""
    with hub_process(tmp_path) as endpoint:
        subprocess.run([sys.executable, "-W", "error", "-c", program, endpoint], check=True)
