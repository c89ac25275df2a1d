"""The Hub as a source: what it asks, what it lists, and that it reads exactly the commit that it resolved."""

import hashlib
import logging
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Revision
from lora_cli.errors import Corrupt, NotFound, Offline, Refused, Unreachable
from lora_cli.settings import Settings
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


def read(source: HubSource, revision: Revision, path: str, start: int = 0, stop: int | None = None) -> bytes:
    file = revision.file(path)
    assert file is not None
    return b"".join(source.read(revision, file, start, stop))


def test_a_branch_costs_one_request_and_the_tree_another(hub: Hub, settings: Settings) -> None:
    commit = hub.add("acme/sql-lora", FILES)
    assert HubSource(settings).resolve(ACME).id == commit
    assert [request.target for request in hub.requests] == [
        "/api/models/acme/sql-lora/revision/main",
        f"/api/models/acme/sql-lora/tree/{commit}?recursive=true&expand=false",
    ]


def test_a_commit_costs_only_the_tree_and_no_file_costs_a_head(hub: Hub, settings: Settings) -> None:
    commit = hub.add("acme/sql-lora", FILES)
    hub.add("acme/sql-lora", {"adapter_config.json": "{}"})
    source = HubSource(settings)
    revision = source.resolve(replace(ACME, revision=commit))
    assert read(source, revision, "adapter_model.safetensors") == WEIGHTS
    assert [request.method for request in hub.requests] == ["GET", "GET", "GET"]


def test_sizes_and_digests_come_from_the_tree(hub: Hub, settings: Settings) -> None:
    hub.add("acme/sql-lora", FILES)
    revision = HubSource(settings).resolve(ACME)
    assert [file.path for file in revision.files] == sorted(FILES)
    weights, config = revision.file("adapter_model.safetensors"), revision.file("adapter_config.json")
    assert weights is not None
    assert config is not None
    assert (weights.size, weights.sha256, weights.git_sha1) == (len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest(), None)
    assert (config.size, config.sha256, config.git_sha1) == (len(CONFIG), None, git_blob_id(CONFIG))


def test_a_listing_of_many_pages_is_read_to_its_end(hub: Hub, settings: Settings) -> None:
    hub.page_size = 1
    hub.add("acme/sql-lora", FILES)
    assert len(HubSource(settings).resolve(ACME).files) == len(FILES)
    assert hub.count("/tree/") == 6


def test_a_mirror_that_names_its_origin_in_the_next_link_is_asked_itself(hub: Hub, settings: Settings) -> None:
    commit = hub.add("acme/sql-lora", FILES)
    link = f'<https://huggingface.co/api/models/acme/sql-lora/tree/{commit}?recursive=true&cursor=0>; rel="next"'
    hub.fault("/tree/", status=200, headers={"Link": link}, body="[]")
    assert len(HubSource(settings).resolve(ACME).files) == len(FILES)


def test_a_mirror_that_leaves_out_sizes_and_digests_is_read_all_the_same(hub: Hub, settings: Settings) -> None:
    hub.add("acme/sql-lora", FILES)
    hub.fault("/tree/", status=200, body='[{"type": "file", "path": "adapter_model.safetensors"}]')
    source = HubSource(settings)
    revision = source.resolve(ACME)
    assert revision.files[0].size is None
    assert read(source, revision, "adapter_model.safetensors") == WEIGHTS
    assert read(source, revision, "adapter_model.safetensors", 5, 10) == WEIGHTS[5:10]


def test_a_subfolder_is_listed_alone_and_its_paths_are_relative_to_it(hub: Hub, settings: Settings) -> None:
    hub.add("acme/sql-lora", FILES)
    source = HubSource(settings)
    revision = source.resolve(replace(ACME, subfolder="checkpoint-1"))
    assert [file.path for file in revision.files] == ["adapter_config.json"]
    assert read(source, revision, "adapter_config.json") == CONFIG
    with pytest.raises(NotFound, match="folder checkpoint-2"):
        source.resolve(replace(ACME, subfolder="checkpoint-2"))
    hub.fault("/tree/", status=200, body="[]")
    with pytest.raises(NotFound, match="folder checkpoint-1"):
        source.resolve(replace(ACME, subfolder="checkpoint-1"))


def test_names_that_need_quoting_are_quoted(hub: Hub, settings: Settings) -> None:
    name = "a folder/#1/100% ünï#code?.json"
    commit = hub.add("acme/sql-lora", {name: CONFIG}, branch="refs/pr/1")
    source = HubSource(settings)
    revision = source.resolve(replace(ACME, revision="refs/pr/1"))
    assert revision.id == commit
    assert read(source, revision, name) == CONFIG
    folder = source.resolve(replace(ACME, revision="refs/pr/1", subfolder="a folder/#1"))
    assert read(source, folder, "100% ünï#code?.json") == CONFIG


def test_a_branch_that_moves_does_not_move_what_is_read(hub: Hub, settings: Settings) -> None:
    hub.add("acme/sql-lora", FILES)
    source = HubSource(settings)
    revision = source.resolve(ACME)
    hub.add("acme/sql-lora", {"adapter_config.json": "new", "adapter_model.safetensors": "new"})
    assert read(source, revision, "adapter_config.json") == CONFIG
    assert read(source, revision, "adapter_model.safetensors") == WEIGHTS


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_renamed_repository_is_read_and_its_new_name_is_said(
    hub: Hub, settings: Settings, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    commit = hub.add("acme/sql-lora", FILES)
    hub.rename("acme/sql-lora", "acme/sql", status=status)
    for ref in (ACME, replace(ACME, revision=commit)):
        caplog.clear()
        source = HubSource(settings)
        revision = source.resolve(ref)
        assert read(source, revision, "adapter_model.safetensors") == WEIGHTS
        assert [record.levelno for record in caplog.records if "hf://acme/sql" in record.message] == [logging.WARNING]
        assert "was renamed to acme/sql" in caplog.text


def test_ranges_of_one_file_ask_the_hub_once_and_share_connections(hub: Hub, settings: Settings) -> None:
    hub.add("acme/sql-lora", FILES)
    source = HubSource(settings)
    revision = source.resolve(ACME)
    for start in range(0, 1_000_000, 50_000):
        expected = WEIGHTS[start : start + 50_000]
        assert read(source, revision, "adapter_model.safetensors", start, start + 50_000) == expected
    assert hub.count("/resolve/") == 1
    assert hub.count("GET cdn") == 20
    assert hub.connections == 2


def test_an_expired_link_is_asked_for_again(hub: Hub, settings: Settings) -> None:
    hub.add("acme/sql-lora", FILES)
    source = HubSource(settings)
    revision = source.resolve(ACME)
    assert read(source, revision, "adapter_model.safetensors", 0, 10) == WEIGHTS[:10]
    hub.expire_signatures()
    assert read(source, revision, "adapter_model.safetensors", 10, 20) == WEIGHTS[10:20]
    assert hub.count("/resolve/") == 2


def test_many_threads_read_through_one_source(hub: Hub, settings: Settings) -> None:
    hub.add("acme/sql-lora", FILES)
    source = HubSource(settings)
    revision = source.resolve(ACME)

    def piece(start: int) -> bytes:
        return read(source, revision, "adapter_model.safetensors", start, start + 20_000)

    with ThreadPoolExecutor(16) as pool:
        assert b"".join(pool.map(piece, range(0, len(WEIGHTS), 20_000))) == WEIGHTS


def test_small_files_that_the_hub_redirects_on_itself_keep_the_token(hub: Hub, settings: Settings) -> None:
    hub.small_files_by_redirect = True
    hub.add("acme/sql-lora", FILES)
    source = HubSource(settings)
    assert read(source, source.resolve(ACME), "adapter_config.json") == CONFIG


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"X-Repo-Commit": "f" * 40}, "commit"),
        ({"X-Linked-Etag": '"' + "0" * 64 + '"'}, "digest"),
        ({"X-Linked-Size": "7"}, "7 bytes now"),
    ],
)
def test_another_version_is_noticed_before_its_body_is_read(
    hub: Hub, settings: Settings, headers: dict[str, str], said: str
) -> None:
    hub.add("acme/sql-lora", FILES)
    source = HubSource(settings)
    revision = source.resolve(ACME)
    hub.fault("/resolve/", status=302, headers={**headers, "Location": f"{hub.cdn}/elsewhere"})
    with pytest.raises(Corrupt, match=said):
        read(source, revision, "adapter_model.safetensors")
    assert hub.count("GET cdn") == 0


def test_a_file_that_is_shorter_than_listed_is_corrupt(hub: Hub, settings: Settings) -> None:
    hub.add("acme/sql-lora", FILES)
    source = HubSource(settings)
    revision = source.resolve(ACME)
    hub.fault("GET cdn", times=-1, status=416)
    with pytest.raises(Corrupt, match="ends before byte 9"):
        read(source, revision, "adapter_model.safetensors", 9)
    hub.faults.clear()
    hub.fault("GET cdn", status=200, body="short")
    with pytest.raises(Corrupt, match="it has 5 bytes now, but 1280000 were listed"):
        read(source, revision, "adapter_model.safetensors")


def test_offline_no_socket_is_opened(hub: Hub, settings: Settings) -> None:
    hub.add("acme/sql-lora", FILES)
    revision = HubSource(settings).resolve(ACME)
    before, offline = hub.connections, HubSource(replace(settings, offline=True))
    with pytest.raises(Offline, match="acme/sql-lora"):
        offline.resolve(ACME)
    with pytest.raises(Offline):
        read(offline, revision, "adapter_config.json")
    assert hub.connections == before


@pytest.mark.parametrize(
    "body",
    ["{}", "[1]", '[{"path": 7}]', '[{"type": "file"}]', "null"],
    ids=["object", "number", "path", "none", "null"],
)
def test_a_server_that_lists_something_else_is_not_a_hub(hub: Hub, settings: Settings, body: str) -> None:
    hub.add("acme/sql-lora", FILES)
    hub.fault("/tree/", status=200, body=body)
    with pytest.raises(Unreachable, match="listing"):
        HubSource(settings).resolve(ACME)


@pytest.mark.parametrize("body", ["[]", "{}", '{"sha": 7}', '{"sha": "../../x"}', '{"sha": "main"}'])
def test_a_server_that_names_no_commit_is_not_a_hub(hub: Hub, settings: Settings, body: str) -> None:
    hub.fault("/revision/", status=200, body=body)
    with pytest.raises(Unreachable, match="returned no commit"):
        HubSource(settings).resolve(ACME)


def test_a_listing_that_never_ends_is_ended(hub: Hub, settings: Settings) -> None:
    hub.add("acme/sql-lora", FILES)
    link = f'<{hub.endpoint}/?cursor=1>; rel="next"'
    hub.fault("/tree/", times=-1, status=200, headers={"Link": link}, body="[]")
    with pytest.raises(Refused, match="200 pages"):
        HubSource(settings).resolve(ACME)
    assert hub.count("/tree/") == 200


def test_a_listing_of_too_many_files_is_refused(hub: Hub, settings: Settings) -> None:
    body = "[" + ",".join(f'{{"type":"file","path":"{n}"}}' for n in range(10_001)) + "]"
    hub.add("acme/sql-lora", FILES)
    hub.fault("/tree/", status=200, body=body)
    with pytest.raises(Refused, match="over 10000 entries"):
        HubSource(settings).resolve(ACME)


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
        with urllib.request.urlopen(f"{endpoint}/_control/requests") as answer:
            assert answer.read().count(b'"api"') == 2
