"""The Hub as a source: what it asks and lists, that it reads exactly the commit that it resolved, and each refusal."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from huggingface_hub import HfApi, snapshot_download

from lora_cli.errors import AccessDenied, Corrupt, LoraCliError, NotFound, Refused, Unreachable
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.registry import open_source
from tests.hf_variables import set_variables
from tests.hub_content import Content
from tests.hub_server import Hub
from tests.sources.asking import content, error_of

WEIGHTS = bytes(range(256)) * 5000
CONFIG = b'{"peft_type": "LORA"}'
FILES: dict[str, Content] = {
    "adapter_config.json": CONFIG,
    "adapter_model.safetensors": WEIGHTS,
    "checkpoint-1/adapter_config.json": CONFIG,
    "checkpoint-10/adapter_config.json": b"{}",
}
ACME = AdapterRef("hf", "acme/sql-lora")


@pytest.fixture
def commit(hub: Hub) -> str:
    return hub.add("acme/sql-lora", FILES)


@pytest.fixture
def source(settings: Settings) -> Source:
    return open_source("hf", settings)


def describe(*siblings: Any, sha: Any = "0" * 40) -> str:
    """The description of a repository, whose id is no name."""
    return json.dumps({"id": "/x\ny", "sha": sha, "siblings": siblings})


@pytest.mark.parametrize("asked", ["main", "commit", "refs/pr/1"])
def test_a_commit_costs_one_request_and_is_what_is_read_when_its_branch_moves(
    hub: Hub, source: Source, commit: str, asked: str
) -> None:
    asked = commit if asked == "commit" else asked
    hub.add("acme/sql-lora", FILES, branch="refs/pr/1")
    revision = source.resolve(replace(ACME, revision=asked))
    assert revision.id == hub.commit("acme/sql-lora", asked).id
    (request,) = hub.requests
    assert request.target == f"/api/models/acme/sql-lora/revision/{quote(asked, safe='')}?blobs=true"
    hub.add("acme/sql-lora", {"adapter_config.json": "new", "adapter_model.safetensors": "new"})
    assert content(source, revision, "adapter_config.json") == CONFIG
    assert content(source, revision, "adapter_model.safetensors") == WEIGHTS
    assert [request.method for request in hub.requests] == ["GET"] * 4


def test_what_is_listed_is_what_the_hubs_own_client_lists_and_downloads(hub: Hub, source: Source, commit: str) -> None:
    hub.page_size = 2
    hub.rename("acme/sql-lora", "acme/new")
    api = HfApi(endpoint=hub.endpoint, token=False)
    ours = {file.path: file for file in source.resolve(ACME).files}
    siblings: Any = api.model_info(ACME.location, files_metadata=True).siblings
    theirs = {one.rfilename: one for one in siblings}
    paged: dict[str, Any] = {file.path: file for file in api.list_repo_tree(ACME.location, recursive=True)}
    assert sorted(paged) == sorted([*FILES, "checkpoint-1", "checkpoint-10"])
    assert sorted(ours) == sorted(theirs)
    for path, file in ours.items():
        sha256 = theirs[path].lfs.sha256 if theirs[path].lfs else None
        assert (file.size, file.sha256) == (theirs[path].size, sha256) == (paged[path].size, sha256)
        assert file.git_sha1 == (None if sha256 else paged[path].blob_id)
    found = Path(snapshot_download("acme/sql-lora", endpoint=hub.endpoint, token=False))
    assert found.name == commit
    assert (found / "adapter_model.safetensors").read_bytes() == WEIGHTS


LARGE = {"match": "blobs=true", "body": " " * ((16 << 20) + 1)}
LINK = '<https://other/?a=b>; rel=prev, <https://other/api?recursive=true&cursor=0>; title="p"; REL="next"'
NAMES = {"match": "/tree/", "body": "[]", "headers": {"Link": LINK}}


@pytest.mark.parametrize("fault", [LARGE, NAMES], ids=["large", "names alone"])
@pytest.mark.parametrize("subfolder", ["", "checkpoint-1"])
def test_what_one_answer_does_not_hold_is_listed_by_folder_page_by_page_at_the_same_server(
    hub: Hub, source: Source, commit: str, fault: dict[str, Any], subfolder: str
) -> None:
    hub.page_size, hub.bare = 1, fault is not LARGE
    hub.fault(**fault, status=200)
    revision = source.resolve(replace(ACME, subfolder=subfolder))
    assert revision.id == commit
    assert [file.path for file in revision.files] == (["adapter_config.json"] if subfolder else sorted(FILES))
    assert hub.count(f"/tree/{commit}") == (1 if subfolder else 6) + hub.bare
    assert hub.bare or all(file.sha256 or file.git_sha1 for file in revision.files)
    with pytest.raises(NotFound, match="no folder #2"):
        source.resolve(replace(ACME, subfolder="#2"))


@pytest.mark.parametrize("path", ["../../secret/other.json", "a/../../b", "\ud800x"])
def test_a_path_that_leaves_its_folder_or_is_no_text_is_never_asked_for(hub: Hub, source: Source, path: str) -> None:
    odd = {"rfilename": path, "size": -1, "blobId": "B" * 40, "lfs": {"sha256": "../" + "a" * 61}}
    hub.fault("blobs=true", status=200, body=describe(odd))
    revision = source.resolve(ACME)
    assert revision.ref == ACME
    assert revision.files == (RemoteFile(path, None),)
    with pytest.raises(Refused, match="would leave the folder"):
        content(source, revision, path)
    assert not hub.count("/resolve/")


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ("[]", Unreachable, "does not respond like a Hub"),
        ("{}", Unreachable, "does not respond like a Hub"),
        (describe(sha="1" * 40), Corrupt, f"returned commit {'1' * 40}"),
    ],
)
def test_a_server_that_answers_something_else_is_not_a_hub(
    hub: Hub, source: Source, commit: str, body: str, kind: type[LoraCliError], said: str
) -> None:
    hub.fault("blobs", status=200, body=body)
    with pytest.raises(kind, match=said):
        source.resolve(replace(ACME, revision=commit))


@pytest.mark.parametrize("bare", [False, True], ids=["hub", "mirror"])
def test_a_renamed_repository_is_read_and_its_new_name_is_said(
    hub: Hub, source: Source, commit: str, caplog: pytest.LogCaptureFixture, bare: bool
) -> None:
    hub.rename("acme/sql-lora", "acme/sql")
    hub.bare = bare
    revision = source.resolve(replace(ACME, revision=commit))
    assert revision.ref.location == "acme/sql"
    assert content(source, revision, "adapter_model.safetensors") == WEIGHTS
    assert [one.levelname for one in caplog.records if "renamed to acme/sql; use hf://" in one.message] == ["WARNING"]


def test_ranges_of_one_file_ask_the_hub_once_and_share_connections(hub: Hub, source: Source, commit: str) -> None:
    revision = source.resolve(ACME)
    for start in range(0, 1_000_000, 50_000):
        expected = WEIGHTS[start : start + 50_000]
        assert content(source, revision, "adapter_model.safetensors", start, start + 50_000) == expected
    assert hub.count("/resolve/") == 1
    assert hub.count("GET cdn") == 20
    assert hub.connections == 2
    hub.small_files_by_redirect = True
    assert content(source, revision, "adapter_config.json") == CONFIG


def test_the_real_client_is_not_imported_and_http_only_when_a_request_is_made(hub: Hub, commit: str) -> None:
    program = """
import sys
from pathlib import Path
from lora_cli.refs.reference import AdapterRef
from lora_cli.settings import Settings
from lora_cli.sources.registry import open_source
source = open_source("hf", Settings(Path("/nowhere"), hub_endpoint=sys.argv[1]))
assert "http.client" not in sys.modules
assert source.resolve(AdapterRef("hf", "acme/sql-lora")).files
assert "huggingface_hub.utils" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program, hub.endpoint], check=True)


SMALL: dict[str, Content] = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}
SQL = AdapterRef("hf", "acme/sql")
TOKEN = "hf_reader_0123456789"


def read_all(settings: Settings, ref: AdapterRef = SQL) -> list[bytes]:
    source = open_source("hf", settings)
    revision = source.resolve(ref)
    return [b"".join(source.read(revision, file, 0, None)) for file in revision.files]


STRANGER, READER, WRONG = "", TOKEN, "hf_wrong_0123456789"


@pytest.mark.parametrize(
    ("text", "token", "kind", "said"),
    [
        ("private", STRANGER, AccessDenied, "there is no repository acme/private, or it is private| HF_TOKEN"),
        ("private", READER, NotFound, "private and the token in HF_TOKEN cannot read it|check the spelling"),
        ("gated", STRANGER, AccessDenied, "acme/gated: it is gated: request access first|/acme/gated; set HF_TOKEN"),
        ("gated", READER, AccessDenied, "the account of the token in HF_TOKEN has no access|/acme/gated, or"),
        ("sql", WRONG, AccessDenied, "does not accept the token in HF_TOKEN|unset it"),
        ("sql@v2", STRANGER, NotFound, "acme/sql has no branch, tag or commit 'v2'|/acme/sql/tree/main"),
        (f"sql@{'0' * 40}", READER, NotFound, f"has no branch, tag or commit '{'0' * 40}'|/acme/sql/tree/main"),
        ("403", STRANGER, AccessDenied, "denies access (403): it says|the proxy"),
        ("404", STRANGER, NotFound, "not found on 127.0.0.1|HF_ENDPOINT"),
        ("lost", STRANGER, NotFound, "acme/lost: there is no file lost.json|/acme/lost for its contents"),
    ],
)
def test_each_refusal_has_words_and_a_hint_of_its_own(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch, text: str, token: str, kind: type, said: str
) -> None:
    hub.add("acme/sql", SMALL)
    hub.add("acme/private", SMALL, private=True)
    hub.add("acme/gated", SMALL, gated=True)
    body = f'{{"sha": "{hub.add("acme/lost", SMALL)}", "siblings": [{{"rfilename": "lost.json", "size": 1}}]}}'
    hub.fault("acme/lost.*blobs=true", status=200, body=body)
    if text.isdecimal():
        hub.fault("", status=int(text), headers={"X-Error-Message": "it says"})
    hub.token(READER)
    monkeypatch.setenv("HF_TOKEN", token)
    name, _, revision = text.partition("@")
    error = error_of(lambda: read_all(settings, AdapterRef("hf", f"acme/{name}", revision=revision or None)))
    assert type(error) is kind
    assert TOKEN not in f"{error} {error.hint} {error.__cause__!r}"
    assert all(map(str.__contains__, (error.message, error.hint), said.split("|")))


def test_a_token_is_found_where_the_hubs_own_client_finds_it(
    hub: Hub, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/sql", SMALL, private=True)
    hub.token("hf_good", "acme/sql")

    def is_found(**variables: str) -> bool:
        with monkeypatch.context() as patch:
            set_variables(patch, HF_HOME=str(tmp_path), **variables)
            try:
                return bool(read_all(settings))
            except AccessDenied:
                return False

    assert not is_found()
    (tmp_path / "token").write_text("hf_good\n")
    assert is_found()
    assert not is_found(HF_HUB_DISABLE_IMPLICIT_TOKEN="1")
    (tmp_path / "token").write_text("hf_bad\n")
    assert is_found(HUGGING_FACE_HUB_TOKEN="hf_good")
    assert is_found(HUGGING_FACE_HUB_TOKEN="hf_bad", HF_TOKEN=" hf_good\n")
    (tmp_path / "elsewhere").write_text("hf_good")
    assert is_found(HF_TOKEN_PATH=str(tmp_path / "elsewhere"))
    assert not is_found(HF_OIDC_RESOURCE="acme", HF_TOKEN="hf_good")  # no provider is here: it is no fallback
