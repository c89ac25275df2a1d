"""Adapters on any web server: the usual names below one address, each range of exactly the version that was seen."""

import base64
import hashlib
import math
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from email.utils import mktime_tz, parsedate_tz
from typing import TYPE_CHECKING
from urllib.parse import quote

from lora_cli.core.adapter_files import BASE_CONFIG, BESIDE, CONFIG, PICKLED, SIGNATURE, WEIGHTS
from lora_cli.core.log import logger
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.daemon_threads import map_in_threads
from lora_cli.errors import AccessDenied, Changed, LoraCliError, NotFound, Unreachable
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.http import AGAIN, Headers, Http, Piece, StatusError, get_bytes, get_headers, host, origin
from lora_cli.sources.ssrf_guard import allows_private
from lora_cli.sources.tokens import token_of

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule

SETTLED_S = 2.0
"""A time of change has whole seconds: a file younger than that could change again and keep it."""

AT_ONCE = 8
NOWHERE = "no-such-file.lora-cli"
"""A name that no adapter has: what a server says to it is what it says when there is nothing."""

NAMES = (CONFIG, WEIGHTS, *PICKLED, *sorted(BESIDE), SIGNATURE, BASE_CONFIG, NOWHERE)
FORBIDDEN, GONE, PAGE = frozenset({401, 403}), frozenset({404, 410}), 200
PAGES = frozenset({"text/html", "application/xhtml+xml"})
_DATE = re.compile(r"[A-Za-z]{3}, \d{2} [A-Za-z]{3} \d{4} \d{2}:\d{2}:\d{2} GMT", re.ASCII)
# Artifactory and Nexus; an object's own metadata behind a web address.
_DIGEST_HEADERS = ("X-Checksum-Sha256", "x-amz-meta-sha256", "x-goog-meta-sha256")
_CONDITIONS = {"etag": "If-Match", "date": "If-Unmodified-Since"}

log = logger(__name__)


class WebSource(Source):
    """A folder on a web server as a source: a ranged GET for each name that an adapter's files can have.

    A revision's id begins with what holds its files to one version: ``etag-`` (strong ETags, asked for by If-Match),
    ``date-`` (for some only the time of change, to the second), or ``none-`` (for some only the size: such a revision
    is never the same as another one, and is fetched again each time).
    """

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        """Opens no connection and reads no token yet; ``rule`` says where requests go, and with whose token."""
        super().__init__(settings, rule)
        self._sites: dict[str, Http] = {}
        # Of all adapters together: twenty names each would be a storm.
        self._turn = threading.BoundedSemaphore(settings.jobs)

    def _resolve(self, ref: AdapterRef) -> Revision:
        """The files below the address that ``ref`` names, at this moment: some twenty requests of a byte each.

        There is no listing to ask for. A page about a folder is not read as one: servers write it for people.

        Raises:
            NotFound: there is neither config nor weights, or the server has something for every name.
            AccessDenied: the server wants to know who asks, or forbids a file.
            UsageError: the variable of the token is not set.
            Transient: network or server.
        """
        answers = map_in_threads(lambda name: self._probe(ref, name), NAMES, min(AT_ONCE, self._settings.jobs))
        files = _files(dict(zip(NAMES, answers, strict=True)), str(ref), host(self._folder(ref)), self._rule)
        return Revision(ref, _id(files, str(ref)), files)

    def _stream(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        ref, what, pin = revision.ref, f"{revision.ref}: {file.path}", file.locator

        def check(headers: Headers) -> None:
            """Not every server obeys a condition."""
            if pin and (found := pin_of(headers)) != pin:
                reason = f"{what}: it changed after it was listed (version {found or 'unknown'}, was {pin})"
                raise Changed(reason, hint=AGAIN)

        kind, _, version = pin.partition(" ")
        conditions = {_CONDITIONS[kind]: version} if kind in _CONDITIONS else {}
        url, piece = f"{self._folder(ref)}/{quote(file.path)}", Piece(start, stop, file.size)
        try:
            yield from get_bytes(self._site(ref), url, piece, what, conditions=conditions, accept=check)
        except StatusError as error:
            if error.status in GONE | {412, 416}:
                raise Changed(f"{what}: it changed after it was listed ({error.status})", hint=AGAIN) from error
            raise _refusal(error.status, f"{what}: refused by {host(error.url)}", self._rule) from error

    def _probe(self, ref: AdapterRef, name: str) -> RemoteFile | int:
        """The file; the status of an answer that is none, ``PAGE`` for a web page."""
        # Nobody asked for the last name: what fails with it is said of the adapter.
        url, what = f"{self._folder(ref)}/{name}", str(ref) if name == NOWHERE else f"{ref}: {name}"
        try:
            status, headers = get_headers(self._site(ref), url, what, self._turn)
        except StatusError as error:
            if error.status == 416:
                return RemoteFile(name, 0, sha256=hashlib.sha256().hexdigest())
            if error.status in GONE | FORBIDDEN:
                return error.status
            raise _refusal(error.status, f"{what}: refused by {host(url)}", self._rule) from error
        if headers.get("Content-Type", "").partition(";")[0].strip().lower() in PAGES:
            return PAGE
        total = headers.get("Content-Length" if status == 200 else "Content-Range", "").rpartition("/")[2].strip()
        size = int(total) if re.fullmatch(r"\d{1,18}", total, re.ASCII) else None
        pin = pin_of(headers)
        version = pin if _is_settled(pin, headers) else ""
        return RemoteFile(name, size, sha256_in(headers), locator=pin, version=version)

    def _site(self, ref: AdapterRef) -> Http:
        settings, base = self._settings, self._folder(ref)
        site = "{}://{}:{}".format(*origin(base))
        if site not in self._sites:
            token = token_of(self._rule, os.environ)
            private, named = allows_private(settings), self._rule is None or self._rule.endpoint_url is None
            self._sites[site] = Http(base, settings.timeout_s, token=token, private=private, named=named)
        return self._sites[site]

    def _folder(self, ref: AdapterRef) -> str:
        """The address of the folder, at the endpoint that the rule names in place of the reference's own host."""
        if self._rule is None or self._rule.endpoint_url is None:
            return f"{ref.scheme}://{ref.location}"
        return f"{self._rule.endpoint_url.rstrip('/')}/{ref.location.partition('/')[2]}".rstrip("/")


def pin_of(headers: Headers) -> str:
    """The version of a response: ``etag "…"``, ``date …`` or "".

    A strong ETag names a version (RFC 9110, 8.8.3), and ``If-Match`` asks for it and no other. Without one, the time of
    the last change has to do, with ``If-Unmodified-Since``, and else the size alone.
    """
    etag, date = headers.get("ETag", "").strip(), headers.get("Last-Modified", "").strip()
    if re.fullmatch(r'"[!#-~]{1,512}"', etag):
        return f"etag {etag}"
    return f"date {date}" if _DATE.fullmatch(date) else ""


def _is_settled(pin: str, headers: Headers) -> bool:
    """Whether the pin will have changed when the file has: it is an ETag, or a time that is past for good."""
    dates = headers.get("Date", ""), pin.removeprefix("date ")
    times = [parsedate_tz(date) if _DATE.fullmatch(date) else None for date in dates]
    now, then = (mktime_tz(one) if one is not None else math.nan for one in times)
    return pin.startswith("etag ") or now - then >= SETTLED_S


def sha256_in(headers: Headers) -> str | None:
    """The sha256 of the whole file in an answer: ``Repr-Digest`` (RFC 9530), or a header of repositories."""
    if found := re.search(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):", headers.get("Repr-Digest", "")[:1000]):
        return base64.b64decode(found[1]).hex()
    digests = (headers.get(name, "").strip().lower() for name in _DIGEST_HEADERS)
    return next((digest for digest in digests if re.fullmatch("[0-9a-f]{64}", digest)), None)


def _id(files: tuple[RemoteFile, ...], what: str) -> str:
    """A fingerprint of names, sizes and versions, after the weakest promise that holds them."""
    versions = [file.sha256 or file.version for file in files]
    if not all(versions):
        log.info("%s: versions cannot be distinguished by size alone, or by a time that is not in the past", what)
        return f"none-{secrets.token_hex(16)}"
    promise = "date" if any(version.startswith("date ") for version in versions) else "etag"
    lines = "".join(f"{file.size} {version} {file.path}\n" for file, version in zip(files, versions, strict=True))
    return f"{promise}-{hashlib.sha256(lines.encode()).hexdigest()}"


def _files(
    seen: Mapping[str, RemoteFile | int], what: str, server: str, rule: "SourceRule | None"
) -> tuple[RemoteFile, ...]:
    """The files of an adapter, or the config of a base, of what was answered; raises as ``WebSource.resolve``."""
    if isinstance(seen[NOWHERE], RemoteFile):
        reason = f"{what}: {server} returns a file for every name, so the existing files are unknown"
        raise NotFound(reason, hint="use the address of a file server")
    found = {name: file for name, file in seen.items() if isinstance(file, RemoteFile)}
    weights = [name for name in (WEIGHTS, *PICKLED) if name in found]
    for name, status in seen.items():
        # Object stores forbid what is not there to those who may not list.
        needed = name == CONFIG or (name == WEIGHTS and not weights)
        if status in FORBIDDEN and (needed or status != seen[NOWHERE]):
            raise _refusal(int(status), f"{what}: {server} denies access to {name}", rule)
    if CONFIG in found or weights:
        unwanted = {BASE_CONFIG, *PICKLED} - {*weights[:1]}  # pickled weights only where there are no others
    elif BASE_CONFIG in found:
        unwanted = {*NAMES} - {BASE_CONFIG}
    elif seen[CONFIG] == PAGE:
        hint = "it may be a login page or an application: use the address of the files themselves"
        raise NotFound(f"{what}: {server} returns a web page instead of {CONFIG}", hint=hint)
    else:
        hint = f"use the folder that contains {CONFIG}; archives are not unpacked"
        raise NotFound(f"{what}: there is neither {CONFIG} nor {WEIGHTS} ({server} answered {seen[CONFIG]})", hint=hint)
    return tuple(file for name, file in sorted(found.items()) if name not in unwanted)


def _refusal(status: int, reason: str, rule: "SourceRule | None") -> LoraCliError:
    if status in {400, 405, 406}:
        return NotFound(f"{reason} ({status})", hint="use the address of a file server")
    if status not in {401, 403, 407, 451}:
        return Unreachable(f"{reason} ({status})", hint="check the address, or try again later")
    hint = "check the path and its permissions; some servers also respond like this for missing files"
    if rule is not None and rule.token_env:
        hint = f"the token in {rule.token_env} is invalid or has no read access"
    elif status == 401:
        hint = "name the variable with a token in the settings file: [[sources]], match and token_env"
    return AccessDenied(f"{reason} ({status})", hint=hint)
