"""Storage buckets of the Hub: written, listed, read by Xet hash and verified; what is locked, and what has changed."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from lora_cli.cli.main import main
from lora_cli.core.reference import AdapterRef, parse
from lora_cli.documents.manifest import SourceRule
from lora_cli.errors import AccessDenied, Corrupt, LoraCliError, NotFound, Refused, Unreachable, UsageError
from lora_cli.fetching.pipeline import Fetched
from lora_cli.settings import Settings
from lora_cli.sources import hub_listing
from lora_cli.sources.hub import HubBucketSource, HubSource
from lora_cli.sources.registry import open_source
from lora_cli.store import Store
from tests.bringing import bring
from tests.hub_server import Hub
from tests.making import write_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BYTES = bytes(range(256)) * 12_000
REF = AdapterRef("hf-bucket", "acme/adapters/run/sql")
TOKEN = "hf_reader_0123456789"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        running.put("acme/adapters", {f"run/sql/{CONFIG}": b'{"r": 4}', f"run/sql/{WEIGHTS}": BYTES, "run/x": b"x"})
        yield running


def fetched(settings: Settings, ref: AdapterRef = REF) -> Fetched:
    return bring(ref, open_source("hf-bucket", settings), Store(settings.cache_dir), settings)


def fails(settings: Settings, ref: AdapterRef = REF) -> LoraCliError:
    with pytest.raises(LoraCliError) as caught:
        fetched(settings, ref)
    assert caught.value.hint
    assert TOKEN not in f"{caught.value} {caught.value.hint}"
    return caught.value


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("hf://buckets/acme/adapters", "acme/adapters"),
        ("hf://buckets/acme/adapters/run/sql/", "acme/adapters/run/sql"),
        ("hf://buckets/acme/adapters/100%/a@b", "acme/adapters/100%/a@b"),
        ("https://huggingface.co/buckets/acme/adapters", "acme/adapters"),
        ("https://huggingface.co/buckets/acme/adapters/tree/run/my%20sql", "acme/adapters/run/my sql"),
        ("huggingface.co/buckets/acme/adapters/tree/run", "acme/adapters/run"),
    ],
)
def test_a_reference_to_a_bucket(text: str, location: str) -> None:
    ref = parse(text, is_path=lambda _: False)
    assert ref == AdapterRef("hf-bucket", location)
    assert parse(str(ref), is_path=lambda _: False) == ref
    assert str(ref) == f"hf://buckets/{location}"
    assert not ref.pinned


@pytest.mark.parametrize(
    "text",
    ["hf://buckets/acme", "hf://buckets/acme/a@main", "hf://buckets/acme/a/../b", "hf://buckets/acme/a//b",
     "buckets/acme", "hf-bucket://acme/a"],
)  # fmt: skip
def test_what_is_no_bucket(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(text)):
        parse(text, is_path=lambda _: False)


def test_what_is_fetched_is_what_the_hubs_own_client_reads(hub: Hub, settings: Settings, tmp_path: Path) -> None:
    api = HfApi(endpoint=hub.endpoint, token=False)
    tree = api.list_bucket_tree("acme/adapters", "run/sql/", recursive=True)
    listed = {entry.path for entry in tree if entry.type == "file"}
    assert listed == {f"run/sql/{CONFIG}", f"run/sql/{WEIGHTS}"}
    assert api.get_bucket_file_metadata("acme/adapters", f"run/sql/{WEIGHTS}").size == len(BYTES)
    snapshot = fetched(settings).snapshot
    assert (snapshot.directory / CONFIG).read_bytes() == b'{"r": 4}'
    assert (snapshot.directory / WEIGHTS).read_bytes() == BYTES
    assert snapshot.files[WEIGHTS].sha256 == hashlib.sha256(BYTES).hexdigest()


def test_a_file_that_did_not_change_is_not_read_again(hub: Hub, settings: Settings) -> None:
    fetched(settings)
    before = hub.count("GET cas /xorbs/")
    assert fetched(settings).cached
    hub.put("acme/adapters", {f"run/sql/{CONFIG}": b'{"r": 8}'})
    assert (fetched(settings).snapshot.directory / CONFIG).read_bytes() == b'{"r": 8}'
    assert hub.count("GET cas /xorbs/") == before + 1


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_other_bytes_than_the_listed_xet_hash_are_never_taken(hub: Hub, settings: Settings, name: str) -> None:
    content = hub.buckets["acme/adapters"][f"run/sql/{name}"]
    for hash, kept in hub.xet_files.items():
        if kept == content:
            hub.xet_files[hash] = kept[:-1] + bytes([kept[-1] ^ 1])
    error = fails(replace(settings, retries=0))
    assert isinstance(error, Corrupt)
    assert "Xet hash" in str(error)


def test_what_is_written_meanwhile_is_not_mixed_with_what_was_listed(hub: Hub, settings: Settings) -> None:
    source = HubBucketSource(settings)
    revision = source.resolve(REF)
    hub.put("acme/adapters", {f"run/sql/{WEIGHTS}": BYTES[::-1]})
    file = revision.file(WEIGHTS)
    assert file is not None
    assert b"".join(source.read(revision, file, 0, None)) == BYTES


def test_a_bucket_that_is_private_or_missing(hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.private_buckets.add("acme/adapters")
    error = fails(settings)
    assert isinstance(error, AccessDenied)
    assert str(error) == "hf://buckets/acme/adapters/run/sql: there is no bucket acme/adapters, or it is private"
    monkeypatch.setenv("HF_TOKEN", hub.token(TOKEN, "acme/adapters"))
    assert (fetched(settings).snapshot.directory / WEIGHTS).read_bytes() == BYTES
    assert {r.origin for r in hub.requests if r.authorized and "/v" not in r.target} == {"api"}
    assert isinstance(fails(settings, AdapterRef("hf-bucket", "acme/other/sql")), NotFound)
    assert "nothing below run/missing/" in str(fails(settings, AdapterRef("hf-bucket", "acme/adapters/run/missing")))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"size": 1}, "without its size or Xet hash"),
        ({"size": 1, "xetHash": "../x"}, "without its size or Xet hash"),
        ({"xetHash": "a" * 64}, "without its size or Xet hash"),
        ({"path": 7}, "sent no listing"),
        ({"path": "run/sql/../../x", "size": 1, "xetHash": "a" * 64}, "leads out"),
        ({"path": "run/sql/a\nb", "size": 1, "xetHash": "a" * 64}, "control"),
    ],
)
def test_a_listing_is_not_trusted(hub: Hub, settings: Settings, entry: dict[str, object], said: str) -> None:
    hub.fault("/tree/", times=-1, status=200, body=json.dumps([{"type": "file", "path": "run/sql/x", **entry}]))
    with pytest.raises((Unreachable, Refused), match=said):
        HubBucketSource(settings).resolve(REF)


def test_a_foreign_link_to_the_next_page_is_not_sent_the_token(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.private_buckets.add("acme/adapters")
    monkeypatch.setenv("HF_TOKEN", hub.token(TOKEN, "acme/adapters"))
    with Hub() as foreign:
        link = f'<{foreign.endpoint}/api/buckets/acme/adapters/tree/run?cursor=0>; rel="next"'
        hub.fault("/tree/", status=200, headers={"Link": link}, body="[]")
        assert len(HubBucketSource(settings).resolve(REF).files) == 2
        hub.fault("/tree/", status=307, headers={"Location": f"{foreign.endpoint}/api/buckets/acme/adapters/tree"})
        foreign.put("acme/adapters", {"run/sql/x": b"x"})
        assert len(HubBucketSource(settings).resolve(REF).files) == 1
        assert [request.authorized for request in foreign.requests] == [False]


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ({"Link": '<http://127.0.0.1/?cursor=1>; rel="next"'}, "[]", "over 200 pages, or takes over 60 s"),
        ({}, json.dumps([{"type": "directory", "path": "x"}] * 10_001), "over 10000 entries"),
        ({}, "[" + " " * (3 << 20), "larger than"),
    ],
    ids=["pages", "entries", "bytes"],
)
def test_a_listing_without_an_end_is_ended(
    hub: Hub, settings: Settings, headers: dict[str, str], body: str, said: str
) -> None:
    hub.fault("/tree/", times=-1, status=200, headers=headers, body=body)
    with pytest.raises(Refused, match=said):
        HubBucketSource(settings).resolve(REF)


def test_a_server_that_only_a_manifest_names_is_not_read_through_hf_xet(hub: Hub, settings: Settings) -> None:
    rule = SourceRule(match="hf://buckets/*", endpoint_url=hub.endpoint)
    for trusted, refused in (((), True), (("http://127.0.0.1:*",), False)):
        theirs = replace(settings, hub_endpoint="https://huggingface.co", trusted_endpoints=trusted)
        source = HubBucketSource(theirs, rule)
        revision = source.resolve(REF)
        with pytest.raises(Refused, match="set only by the manifest") if refused else nullcontext():
            assert b"".join(source.read(revision, revision.files[1], 0, None)) == BYTES


def test_no_page_is_asked_for_after_a_minute(hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_listing, "LISTING_S", 0.3)
    link = '<http://127.0.0.1/?cursor=1>; rel="next"'
    hub.fault("/tree/", times=-1, status=200, headers={"Link": link}, body="[]", delay_s=0.2)
    repository = AdapterRef("hf", "org/sql", revision="a" * 40)
    for source, ref in ((HubBucketSource(settings), REF), (HubSource(settings), repository)):
        with pytest.raises(Refused, match="or takes over"):
            source.resolve(ref)
    assert hub.count("/tree/") == 4


def test_a_lock_holds_the_bytes_and_check_says_what_changed(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_adapter(tmp_path / "sql")
    files = {f"run/sql/{path.name}": path.read_bytes() for path in folder.iterdir()}
    hub.put("acme/adapters", files)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    policy = "policy: {allow_sources: ['hf://buckets/acme/*'], require_pinned: false}"
    adapters = "adapters: [{name: sql, source: hf://buckets/acme/adapters/run/sql}]"
    text = f"apiVersion: lora-cli/v1\nkind: AdapterSet\n{policy}\n{adapters}\n"
    (tmp_path / "set.yaml").write_text(text)
    fetch = ["fetch", "-f", str(tmp_path / "set.yaml")]
    assert main(fetch) == 0
    assert main([*fetch, "--check"]) == 0
    assert main([*fetch, "--locked"]) == 0
    hub.put("acme/adapters", {f"run/sql/{CONFIG}": files[f"run/sql/{CONFIG}"] + b" "})
    capsys.readouterr()
    assert main([*fetch, "--check"]) == 1
    assert f"{CONFIG} changed from" in capsys.readouterr().out
    (tmp_path / "set.yaml").write_text(text.replace("acme/*", "other/*"))
    assert main(fetch) == 1
    assert "allow_sources" in capsys.readouterr().err
