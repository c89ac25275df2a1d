"""Listings of S3 (``ListObjectsV2``): bounded in bytes and time, and nothing in their XML is taken on trust."""

import re
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Any
from urllib.parse import quote
from xml.parsers import expat

from lora_cli.sources.buckets import PAGE, Entry, Page, version_of
from lora_cli.sources.listed import Room
from lora_cli.sources.object_errors import NETWORK, refusal
from lora_cli.sources.retries import Transient
from lora_cli.sources.s3_requests import Place, asked, told
from lora_cli.sources.urls import host

MOST_BYTES = 4 << 20
"""A page of 1000 keys of 1024 bytes, most of them escaped, has fewer."""

LONGEST_TOKEN = 32 * 1024
"""A tag or a text is no longer than that: a key has 1024 bytes, escaped at most nine times as many."""

LONGEST_ETAG = 512
DEEPEST, MOST_NAMES = 8, 100
PIECE = 16 * 1024
ROOT, OBJECT = "ListBucketResult", "Contents"
KEPT = frozenset({"Key", "Size", "ETag", "LastModified", "IsTruncated", "NextContinuationToken"})


def pages(place: Place, prefix: str) -> Iterator[Page]:
    """All objects below ``prefix``, page by page.

    Raises:
        Transient: network or server, or what came is no listing, or has fewer than ``PAGE`` in the time.
        Answered: an answer that another try would not change.
    """
    token, count, spent_s = "", 0, 0.0
    while True:
        began_s = time.monotonic()
        page, token = _page(place, prefix, token)
        count, spent_s = count + len(page.entries), spent_s + time.monotonic() - began_s
        if page.entries or page.last:
            yield page
        if page.last:
            return
        if count >= PAGE:
            count, spent_s = 0, 0.0
        elif spent_s > place.timeout_s:
            # Pages may be short, and there may be any number of them.
            raise Transient(
                f"the server of {place.bucket} listed only {count} objects in {spent_s:.0f} s", hint=NETWORK
            )


def _page(place: Place, prefix: str, token: str) -> tuple[Page, str]:
    """One page, and what asks for the next one."""
    wanted = {"continuation-token": token, "list-type": "2", "max-keys": str(PAGE), "prefix": prefix}
    query = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in wanted.items() if value)
    with closing(asked(place, "GET", "", query=query)) as response:
        server = host(response.url)
        if response.status != 200:
            raise refusal(server, response.status, response.headers, told(response))
        reader, left, until = _Reader(prefix, place.bucket), MOST_BYTES, time.monotonic() + place.timeout_s
        try:
            for chunk in response.encoded_chunks():
                left -= len(chunk)
                if left < 0 or time.monotonic() > until:
                    raise _NoListing
                reader.read(chunk)
            return reader.end()
        except (expat.ExpatError, ValueError) as error:
            raise Transient(f"{server} sent no listing", hint=NETWORK) from error


class _NoListing(ValueError):
    """What came is too much, or something else."""


class _Reader:
    """Takes one page from its XML as it comes. A document with a DTD, whose entities could grow, is none."""

    def __init__(self, prefix: str, bucket: str = "") -> None:
        self._prefix = prefix
        self._entries: list[Entry] = []
        self._room = Room(f"s3://{bucket}", "name the folder of one adapter")
        self._fed, self._length = 0, 0
        self._open: list[str] = []
        self._names: set[str] = set()
        self._text: list[str] = []
        self._page: dict[str, str] = {}
        self._object: dict[str, str] = {}
        self._parser: Any = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._began
        self._parser.EndElementHandler = self._ended
        self._parser.CharacterDataHandler = self._said
        self._parser.StartDoctypeDeclHandler = self._refused

    def read(self, data: bytes) -> None:
        """Takes what is complete in it.

        Raises:
            ExpatError, ValueError: it is no listing.
            Refused: it lists more than any adapter has.
        """
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            self._fed += len(piece)
            self._parser.Parse(piece, False)
            if self._fed - self._parser.CurrentByteIndex > LONGEST_TOKEN:
                raise _NoListing

    def end(self) -> tuple[Page, str]:
        """The page, and what asks for the next one; raises as ``read``."""
        self._parser.Parse(b"", True)
        more, token = self._page.get("IsTruncated", "").strip() == "true", self._page.get("NextContinuationToken", "")
        if more and not token:
            raise _NoListing
        return Page(self._entries, not more), token

    def _began(self, name: str, _: object) -> None:
        self._names.add(name)
        if (not self._open and name != ROOT) or len(self._open) == DEEPEST or len(self._names) > MOST_NAMES:
            raise _NoListing
        self._open.append(name)
        self._forget()

    def _said(self, text: str) -> None:
        self._text.append(text)
        self._length += len(text)
        if self._length > LONGEST_TOKEN:
            raise _NoListing

    def _ended(self, name: str) -> None:
        self._open.pop()
        if self._open == [ROOT, OBJECT] and name in KEPT:
            self._object[name] = "".join(self._text)
        elif self._open == [ROOT]:
            if name == OBJECT:
                self._list()
            elif name in KEPT:
                self._page[name] = "".join(self._text)
        self._forget()

    def _forget(self) -> None:
        self._text.clear()
        self._length = 0

    def _list(self) -> None:
        """One object more, if it is below the prefix: some servers list others as well."""
        said, self._object = self._object, {}
        key, size, etag = said.get("Key", ""), said.get("Size", ""), said.get("ETag", "")
        if not key or not re.fullmatch(r"[0-9]{1,19}", size) or len(etag) > LONGEST_ETAG:
            raise _NoListing
        if key.startswith(self._prefix):
            changed = None if etag else datetime.fromisoformat(said.get("LastModified", ""))
            entry = Entry(key, int(size), version_of(etag, changed))
            self._room.take(entry.key, entry.version)
            self._entries.append(entry)

    def _refused(self, *_: object) -> None:
        raise _NoListing
