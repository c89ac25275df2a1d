"""Listings of S3: they say what another client says, and what is no listing is not made into one."""

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from obstore import list as obstore_list
from obstore.store import S3Store

from lora_cli.errors import Refused
from lora_cli.sources.aws import find_account
from lora_cli.sources.object_store import Entry, Page
from lora_cli.sources.retries import Transient
from lora_cli.sources.s3 import S3Bucket, S3Client
from tests.answering import Reply, answering
from tests.object_servers import S3Server
from tests.sources.s3_answers import REF, error_of, source_at

OBJECT = "<Contents><Key>sql/a</Key><Size>7</Size><ETag>e</ETag></Contents>"
MORE = "<IsTruncated>true</IsTruncated><NextContinuationToken>{}</NextContinuationToken>"


NOBODY = {"AWS_SKIP_SIGNATURE": "true"}


def document(inside: str) -> bytes:
    return f"<ListBucketResult>{inside}</ListBucketResult>".encode()


def bucket_at(endpoint: str, timeout_s: float = 5, name: str = "abc", environ: Mapping[str, str] = NOBODY) -> S3Bucket:
    account = find_account({"AWS_ENDPOINT_URL": endpoint, **environ})
    return S3Bucket(S3Client(account, timeout_s), name)


def pages_of(reply: Callable[[BaseHTTPRequestHandler], Reply], timeout_s: float = 5) -> list[Page]:
    with answering(reply) as endpoint:
        return list(bucket_at(endpoint, timeout_s).pages("sql/"))


def entries_of(inside: str) -> list[Entry]:
    (page,) = pages_of(lambda _: (200, document(inside), {}))
    return page.entries


def reason_of(body: bytes) -> str:
    with pytest.raises(Transient) as caught:
        pages_of(lambda _: (200, body, {}))
    return caught.value.reason


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 7, 1003])
def test_a_real_server_says_the_same_to_obstore(seaweed_server: S3Server, count: int) -> None:
    bucket, _, folder = seaweed_server.place().partition("/")
    names = [f"sql/{number:04} ż+%26&<>\"'=~*()" for number in range(count)]
    seaweed_server.put(f"{bucket}/{folder}", {name: name.encode() for name in names} | {"sqlite/a": b""})
    key, secret = seaweed_server.keys
    keys = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    ours = bucket_at(seaweed_server.endpoint, name=bucket, environ=keys)
    found = [one for page in ours.pages(f"{folder}/sql/") for one in page.entries]
    store = S3Store(
        bucket,
        endpoint=seaweed_server.endpoint,
        access_key_id=key,
        secret_access_key=secret,
        client_options={"allow_http": True, "timeout": timedelta(seconds=30)},
    )
    theirs = [one for page in obstore_list(store, f"{folder}/sql/") for one in page]
    etags = {one["path"]: "etag:" + str(one["e_tag"]).strip('"') for one in theirs}
    assert {(one.key, one.size, one.version) for one in found} == {
        (one["path"], one["size"], etags[one["path"]]) for one in theirs
    }
    assert len(found) == count


@pytest.mark.parametrize(
    ("inside", "entries"),
    [
        ("", []),
        (OBJECT, [Entry("sql/a", 7, "etag:e")]),
        (OBJECT.replace(">e<", ">W/&quot;e&quot;<"), [Entry("sql/a", 7, "etag:e")]),
        (OBJECT.replace("sql/a", "sql/&lt;&#229;&amp;\u017c"), [Entry("sql/<å&ż", 7, "etag:e")]),
        (OBJECT.replace("sql/a", "<![CDATA[sql/<b>]]>"), [Entry("sql/<b>", 7, "etag:e")]),
        (OBJECT.replace("sql/a", "sqlite/a") + OBJECT, [Entry("sql/a", 7, "etag:e")]),
        (
            OBJECT.replace("<ETag>e</ETag>", "<LastModified>2026-11-24T12:00:00.000Z</LastModified>"),
            [Entry("sql/a", 7, "time:2026-11-24T12:00:00+00:00")],
        ),
        (f"<Owner><ID>x</ID><Key>no</Key></Owner><Key>no</Key>{OBJECT}<CommonPrefixes><Prefix>p</Prefix></CommonPrefixes>",
         [Entry("sql/a", 7, "etag:e")]),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_what_an_entry_says(inside: str, entries: list[Entry]) -> None:
    assert entries_of(inside) == entries


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<Error><Code>x</Code></Error>",
        b"<ListBucketResult>",
        document(OBJECT)[:-3],
        document(OBJECT.replace("<Key>sql/a</Key>", "")),
        document(OBJECT.replace(">7<", ">-7<")),
        document(OBJECT.replace("<Size>7</Size>", "")),
        document(OBJECT.replace("<ETag>e</ETag>", "")),
        document(OBJECT.replace("<ETag>e</ETag>", "<LastModified>yesterday</LastModified>")),
        document("<IsTruncated>true</IsTruncated>"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_no_listing_is_not_made_into_one(body: bytes) -> None:
    assert "sent no listing" in reason_of(body)


def test_each_page_is_asked_for_with_what_the_one_before_it_said(tmp_path: Path) -> None:
    asked: list[dict[str, list[str]]] = []
    tokens = ["1/+=&ż", "two", ""]

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        asked.append(parse_qs(urlsplit(request.path).query))
        token = tokens[len(asked) - 1]
        entry = OBJECT.replace("sql/a", f"sql/{len(asked)}")
        return 200, document(entry + (MORE.format(token.replace("&", "&amp;")) if token else "")), {}

    found = pages_of(reply)
    assert [entry.key for page in found for entry in page.entries] == ["sql/1", "sql/2", "sql/3"]
    assert [page.last for page in found] == [False, False, True]
    assert [one.get("continuation-token") for one in asked] == [None, ["1/+=&ż"], ["two"]]
    assert all(one["prefix"] == ["sql/"] and one["list-type"] == ["2"] for one in asked)


def test_a_page_is_asked_for_when_it_is_wanted() -> None:
    asked: list[str] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        asked.append(request.path)
        return 200, document(OBJECT + MORE.format("again")), {}

    with answering(reply) as endpoint:
        stream = bucket_at(endpoint).pages("sql/")
        assert len(list(islice(stream, 2))) == 2
    assert len(asked) == 2


def test_objects_that_end_in_a_slash_stand_for_folders_and_others_are_no_paths(tmp_path: Path) -> None:
    marker, file = OBJECT.replace("sql/a", "sql/empty/").replace(">7<", ">0<"), OBJECT
    with answering(lambda _: (200, document(marker + file), {})) as endpoint:
        assert [one.path for one in source_at(endpoint, tmp_path).resolve(REF).files] == ["a"]
    with answering(lambda _: (200, document(OBJECT.replace("sql/a", "sql/b//c")), {})) as endpoint:
        error = error_of(lambda: source_at(endpoint, tmp_path).resolve(REF))
    assert isinstance(error, Refused)
    assert "empty segment" in error.message


def test_a_busy_server_is_asked_again_when_it_says(tmp_path: Path) -> None:
    asked: list[float] = []

    def reply(_: BaseHTTPRequestHandler) -> Reply:
        asked.append(time.monotonic())
        return (503, b"", {"Retry-After": "1"}) if len(asked) == 1 else (200, document(OBJECT), {})

    with answering(reply) as endpoint:
        assert source_at(endpoint, tmp_path, retries=1).resolve(REF).files
    assert len(asked) == 2
    assert asked[1] - asked[0] >= 1
