"""Adapters on any web server: the usual names below one address, each range of exactly the version that was seen."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from lora_cli.errors import AccessDenied, Changed, LoraCliError, NotFound, Unreachable
from lora_cli.parallel import map_in_threads
from lora_cli.refs.adapter_files import BASE_CONFIG, BESIDE, CONFIG, PICKLED, SIGNATURE, WEIGHTS
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import RemoteFile, Revision
from lora_cli.refs.web_address import host, origin
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.http import AGAIN, Headers, Http, Piece, StatusError, get_bytes, open_response

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule

AT_ONCE = 8
NOWHERE = "no-such-file.lora-cli"
"""A name that no adapter has: what a server says to it is what it says when there is nothing."""

NAMES = (CONFIG, WEIGHTS, *PICKLED, *sorted(BESIDE), SIGNATURE, BASE_CONFIG, NOWHERE)
FORBIDDEN, GONE = frozenset({401, 403}), frozenset({404, 410})

NO_VERSION = "check the network; a server that sends an ETag is resumed"


class WebSource(Source):
    """A folder on a web server as a source: a ranged GET for each name that an adapter's files can have.

    A revision's id begins with what holds its files to one version: ``etag-`` (strong ETags, asked for by If-Match),
    ``date-`` (for some only the time of change, to the second), or ``none-`` (for some only the size: such a revision
    is never the same as another one, and is fetched again each time).
    """

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        super().__init__(settings, rule)
        self._sites: dict[tuple[str, str, int], Http] = {}

    def _resolve(self, ref: AdapterRef) -> Revision:
        """Some twenty requests of a byte each: there is no listing to ask for."""
        answers = map_in_threads(lambda name: self._probe(ref, name), NAMES, min(AT_ONCE, self._settings.jobs))
        files = self._files(dict(zip(NAMES, answers, strict=True)), str(ref), host(self._folder(ref)))
        revision = Revision.of_listing(ref, files)
        promise = "date-" if any(file.version.startswith("If-Unmodified-Since") for file in files) else "etag-"
        return replace(revision, id=promise * (not revision.id.startswith("none-")) + revision.id)

    def _stream(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        ref, what, pin = revision.ref, f"{revision.ref}: {file.path}", file.version
        condition, _, value = pin.partition(" ")

        def check(headers: Headers) -> None:
            """Not every server obeys a condition."""
            if pin and (found := _version_of(headers)) != pin:
                reason = f"{what}: it changed after it was listed ({found or 'no version'}, was {pin})"
                raise Changed(reason, hint=AGAIN)

        if start and stop is None and not file.identity:
            raise Changed(f"{what}: it broke off, and the server has no version to go on with", hint=NO_VERSION)
        url, piece = f"{self._folder(ref)}/{quote(file.path)}", Piece(start, stop, file.size)
        conditions = {condition: value} if pin else {}
        try:
            yield from get_bytes(self._site(ref), url, piece, what, conditions=conditions, check=check)
        except StatusError as error:
            if error.status in GONE | {412, 416}:
                raise Changed(f"{what}: it changed after it was listed ({error.status})", hint=AGAIN) from error
            raise self._refusal(error.status, f"{what}: refused by {host(error.url)}") from error

    def _probe(self, ref: AdapterRef, name: str) -> RemoteFile | int:
        """The file, or the status of an answer that is none."""
        # It is no HEAD: some servers know none, and links that are signed for GET refuse it.
        url, what = f"{self._folder(ref)}/{name}", f"{ref}: {name}"
        try:
            with open_response(self._site(ref), url, {"Range": "bytes=0-0"}, what) as response:
                status, headers = response.status, response.headers
        except StatusError as error:
            if error.status == 416 and error.headers.get("Content-Range", "*/0").endswith("/0"):
                return RemoteFile(name, 0, sha256=hashlib.sha256().hexdigest())
            if error.status in GONE | FORBIDDEN:
                return error.status
            raise self._refusal(error.status, f"{what}: refused by {host(url)}") from error
        total = headers.get("Content-Length" if status == 200 else "Content-Range", "").rpartition("/")[2].strip()
        # Artifactory and Nexus tell a digest.
        digest = headers.get("X-Checksum-Sha256", "").strip().lower()
        sha256 = digest if re.fullmatch("[0-9a-f]{64}", digest) else None
        size = int(total) if re.fullmatch(r"\d{1,18}", total, re.ASCII) else None
        return RemoteFile(name, size, sha256, version=_version_of(headers))

    def _site(self, ref: AdapterRef) -> Http:
        base = self._folder(ref)
        site = Http.of(self._settings, base, self._rule.token() if self._rule else "")
        return self._sites.setdefault(origin(base), site)

    def _folder(self, ref: AdapterRef) -> str:
        """The address of the folder, at the endpoint that the rule names in place of the reference's own host."""
        if self._rule is None or self._rule.endpoint_url is None:
            return f"{ref.scheme}://{ref.location}"
        return f"{self._rule.endpoint_url.rstrip('/')}/{ref.location.partition('/')[2]}".rstrip("/")

    def _files(self, seen: Mapping[str, RemoteFile | int], what: str, server: str) -> tuple[RemoteFile, ...]:
        """The files of an adapter, or the config of a base, of what was answered; raises as ``resolve``."""
        if isinstance(seen[NOWHERE], RemoteFile):
            reason = f"{what}: {server} returns a file for every name, so the existing files are unknown"
            raise NotFound(reason, hint="use the address of a file server; it may be a login page or an application")
        found = {name: file for name, file in seen.items() if isinstance(file, RemoteFile)}
        weights = [name for name in (WEIGHTS, *PICKLED) if name in found]
        for name, status in seen.items():
            # Object stores forbid what is not there to those who may not list.
            needed = name == CONFIG or (name == WEIGHTS and not weights)
            if isinstance(status, int) and status in FORBIDDEN and (needed or status != seen[NOWHERE]):
                raise self._refusal(status, f"{what}: {server} denies access to {name}")
        if CONFIG in found or weights:
            unwanted = {BASE_CONFIG, *PICKLED} - {*weights[:1]}  # pickled weights only where there are no others
        elif BASE_CONFIG in found:
            unwanted = {*NAMES} - {BASE_CONFIG}
        else:
            reason = f"{what}: there is neither {CONFIG} nor {WEIGHTS} ({server} answered {seen[CONFIG]})"
            raise NotFound(reason, hint=f"use the folder that contains {CONFIG}; archives are not unpacked")
        return tuple(file for name, file in sorted(found.items()) if name not in unwanted)

    def _refusal(self, status: int, reason: str) -> LoraCliError:
        if status not in {401, 403, 407, 451}:
            return Unreachable(f"{reason} ({status})", hint="use the address of a file server, or try again later")
        hint = "check the path and its permissions; some servers also respond like this for missing files"
        if self._rule is not None and self._rule.token_env:
            hint = f"the token in {self._rule.token_env} is invalid or has no read access"
        elif status == 401:
            hint = "name the variable with a token in the settings file: [[sources]], match and token_env"
        return AccessDenied(f"{reason} ({status})", hint=hint)


def _version_of(headers: Headers) -> str:
    """What asks for the version of an answer, "" if nothing does: a strong ETag (RFC 9110, 8.8.3), else a time."""
    etag, date = headers.get("ETag", ""), headers.get("Last-Modified", "")
    if etag.startswith('"'):
        return f"If-Match {etag}"
    return f"If-Unmodified-Since {date}" if date else ""
