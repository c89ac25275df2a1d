"""Folders that lie beside each other in a bucket are listed together, by the page; never more is asked than alone."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import NotFound
from lora_cli.settings import Settings
from lora_cli.sources import BatchListingSource
from lora_cli.sources.registry import Sources, open_source
from tests.answering import Reply, answering
from tests.object_servers import S3Server

Listing = tuple[str, str]
"""Prefix and start of a question for a page."""


class Listed:
    """A bucket of these keys, which lists them by the page, as S3 does, but not those below ``refused``."""

    def __init__(self, keys: Sequence[str], refused: str | None = None, order: Callable[[str], str] = str) -> None:
        self.keys, self.refused, self.order = sorted(keys, key=order), refused, order
        self.asked: list[Listing] = []
        self._lock = threading.Lock()

    def __call__(self, request: BaseHTTPRequestHandler) -> Reply:
        said = {name: values[0] for name, values in parse_qs(urlsplit(request.path).query).items()}
        prefix, start = said.get("prefix", ""), said.get("start-after", "")
        after = said.get("continuation-token", start)
        with self._lock:
            self.asked.append((prefix, after))
        if prefix == self.refused:
            return 403, b"<Error><Code>AccessDenied</Code></Error>", {}
        found = [key for key in self.keys if key.startswith(prefix) and self.order(key) > self.order(after)]
        page, more = found[:1000], ""
        if len(found) > 1000:
            more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{page[-1]}</NextContinuationToken>"
        entries = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2026-11-24T12:00:00Z</LastModified><ETag>{hash(key)}</ETag>"
            "<Size>1</Size></Contents>"
            for key in page
        )
        return 200, f"<ListBucketResult>{entries}{more}</ListBucketResult>".encode(), {}


@contextmanager
def opened(bucket: Listed, tmp_path: Path, expected: Sequence[AdapterRef] = ()) -> Iterator[BatchListingSource]:
    with answering(bucket) as endpoint:
        settings = Settings(tmp_path / "cache", timeout_s=5, retries=0)
        source = open_source("s3", settings, SourceRule(match="s3://abc/*", endpoint_url=endpoint, anonymous=True))
        assert isinstance(source, BatchListingSource)
        source.expect(expected)
        yield source


def folders(*names: str) -> list[AdapterRef]:
    return [AdapterRef("s3", f"abc/{name}") for name in names]


def files_of(names: Sequence[str], count: int = 2) -> list[str]:
    return [f"{name}/{number:03}" for name in names for number in range(count)]


def alone(bucket: Listed, tmp_path: Path, refs: Sequence[AdapterRef]) -> list[Revision]:
    """What each is when nobody expects it."""
    with opened(bucket, tmp_path) as source:
        found = [source.resolve(ref) for ref in refs]
    bucket.asked.clear()
    return found


def test_a_page_stands_for_many_questions_and_says_the_same(tmp_path: Path) -> None:
    names = [f"team/{name}" for name in ("a", "a-b", "a.b", "a/b", "a_b", "b", "ż")]
    bucket = Listed([*files_of(names), "team", "team/!", "team/zzz"])
    refs = folders(*names)
    expected = alone(bucket, tmp_path, refs)
    with opened(bucket, tmp_path, refs) as source:
        assert [source.resolve(ref) for ref in reversed(refs)] == expected[::-1]
    assert bucket.asked == [("team/", "")]


def test_who_asks_again_is_told_what_is_there_now(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    bucket = Listed(files_of(names))
    with opened(bucket, tmp_path, folders(*names)) as source:
        before = source.resolve(folders("a")[0])
        bucket.keys.insert(0, "a/0")
        assert source.resolve(folders("a")[0]).files == (
            RemoteFile("0", 1, version=f"etag:{hash('a/0')}"),
            *before.files,
        )
    assert bucket.asked == [("", ""), ("a/", "")]


def test_what_was_listed_long_ago_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a", "b", "c", "d"]
    bucket = Listed(files_of(names))
    monkeypatch.setattr("lora_cli.sources.object_store.FRESH_S", 0.0)
    with opened(bucket, tmp_path, folders(*names)) as source:
        for ref in folders(*names):
            source.resolve(ref)
    assert bucket.asked[1:] == [(f"{name}/", "") for name in names]


def test_a_folder_that_is_not_there_is_missed_in_a_page_too(tmp_path: Path) -> None:
    bucket = Listed(files_of(["a", "b", "d"]))
    with opened(bucket, tmp_path, folders("a", "b", "c", "d")) as source, pytest.raises(NotFound, match="below c/"):
        source.resolve(folders("c")[0])


def test_few_are_asked_for_one_by_one(tmp_path: Path) -> None:
    bucket = Listed(files_of(["a", "b", "c"]))
    with opened(bucket, tmp_path, folders("a", "b", "c")) as source:
        for ref in folders("a", "b", "c"):
            source.resolve(ref)
    assert bucket.asked == [("a/", ""), ("b/", ""), ("c/", "")]


def test_many_pages_are_turned_as_they_are_needed(tmp_path: Path) -> None:
    names = [f"all/{number:04}" for number in range(1200)]
    bucket = Listed(files_of(names))
    with opened(bucket, tmp_path, folders(*names)) as source:
        source.resolve(folders("all/0000")[0])
        assert len(bucket.asked) == 1
        for ref in folders(*names[1:]):
            assert [file.path for file in source.resolve(ref).files] == ["000", "001"]
    # The folder at the end of each full page is asked for by itself: it may have more than the page holds.
    assert len(bucket.asked) == 3 + 2


def test_a_bucket_full_of_others_costs_one_page_in_vain(tmp_path: Path) -> None:
    names = ["a", "x", "y", "z"]
    bucket = Listed([*files_of(names), *files_of(["n"], 5000)])
    refs = folders(*names)
    expected = alone(bucket, tmp_path, refs)
    with opened(bucket, tmp_path, refs) as source:
        assert [source.resolve(ref) for ref in refs] == expected
    # Of the first page only "a" is known.
    assert bucket.asked == [("", ""), ("x/", ""), ("y/", ""), ("z/", "")]


@pytest.mark.slow
@pytest.mark.parametrize("nested", [("b", "b/c"), ("b", "d")])
def test_a_folder_that_goes_on_after_a_page_is_asked_for_by_itself(tmp_path: Path, nested: tuple[str, str]) -> None:
    names = ["a0", "a1", "a2", "a3", *nested, "x"]
    bucket = Listed([*files_of(names), *files_of([f"{nested[0]}/c/d", f"{nested[0]}/e"], 990)])
    refs = folders(*names)
    expected = alone(bucket, tmp_path, refs)
    with opened(bucket, tmp_path, refs) as source:
        assert [source.resolve(ref) for ref in refs] == expected


def test_whoever_may_not_list_what_is_above_lists_each_by_itself(tmp_path: Path) -> None:
    names = [f"team/{name}" for name in "abcd"]
    bucket = Listed(files_of(names), refused="team/")
    with opened(bucket, tmp_path, folders(*names)) as source:
        for ref in folders(*names):
            assert len(source.resolve(ref).files) == 2
    assert len(bucket.asked) == 5


def test_pages_in_another_order_are_not_relied_on(tmp_path: Path) -> None:
    names = [f"{number}" for number in range(1000, 1600)]
    bucket = Listed(files_of(names), order=lambda key: key[::-1])
    refs = folders(*names[:5])
    expected = alone(bucket, tmp_path, refs)
    with opened(bucket, tmp_path, folders(*names)) as source:
        assert [source.resolve(ref) for ref in refs] == expected


def test_threads_ask_for_one_page_together(tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(16)]
    bucket, found = Listed(files_of(names)), []
    with opened(bucket, tmp_path, folders(*names)) as source:
        threads = [
            threading.Thread(target=lambda ref=ref: found.append(source.resolve(ref).ref)) for ref in folders(*names)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 16
    assert len(bucket.asked) == 1


def test_a_real_server_says_the_same_of_many_and_of_each(
    seaweed_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweed_server.environ.items():
        monkeypatch.setenv(name, value)
    place = seaweed_server.place()
    names = ["a", "a-b", "a.b", "a/b", "b", "ż"]
    seaweed_server.put(place, {key: key.encode() for key in [*files_of(names), "a!", "zzz/000"]})
    refs = [AdapterRef("s3", f"{place}/{name}") for name in names]
    settings = Settings(tmp_path / "cache", timeout_s=5, retries=0)
    one_by_one, together = Sources(settings), Sources(settings, refs)
    for ref in refs:
        assert together.of(ref).resolve(ref) == one_by_one.of(ref).resolve(ref)
