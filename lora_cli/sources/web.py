"""Adapters on any web server: config and weights below one address, each range of exactly the version that was seen."""

import hashlib
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote

from lora_cli.core.log import logger
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import AccessDenied, Changed, LoraCliError, NotFound, Unreachable
from lora_cli.settings import Settings
from lora_cli.sources.abreast import abreast
from lora_cli.sources.http import AGAIN, Headers, Http, Piece, StatusError, get_bytes, get_headers
from lora_cli.sources.http_json import get_body
from lora_cli.sources.retries import Retries
from lora_cli.sources.ssrf_guard import bounds_of
from lora_cli.sources.urls import host, origin
from lora_cli.sources.web_listing import GONE, INDEX_CAP, NOWHERE, Seen, list_files, shards_in
from lora_cli.sources.web_pins import check_pin, conditions_of, names_a_version, pin_of, sha256_in, size_in

if TYPE_CHECKING:
    from lora_cli.documents.manifest import SourceRule

AT_ONCE = 8
EMPTY_SHA256 = hashlib.sha256().hexdigest()

log = logger(__name__)


class WebSource:
    """A folder on a web server as a source: a ranged GET for each name that an adapter's files can have.

    A revision's id begins with what holds its files to one version: ``etag-`` (strong ETags, asked for by If-Match),
    ``date-`` (for some only the time of change, to the second), or ``none-`` (for some only the size: such a revision
    is never the same as another one, and is fetched again each time).
    """

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        """Opens no connection and reads no token yet; ``rule`` says where requests go, and with whose token."""
        self._settings, self._rule = settings, rule
        self._sites: dict[str, Http] = {}
        # Of all adapters together: twenty names each would be a storm.
        self._turn = threading.BoundedSemaphore(settings.jobs)

    def resolve(self, ref: AdapterRef) -> Revision:
        """What is there below the address that ``ref`` names, at this moment: some twenty requests of a byte each.

        Raises:
            NotFound: there is neither config nor weights, or the server has something for every name.
            AccessDenied: the server wants to know who asks, or forbids a file.
            UsageError: the variable of the token is not set.
            Unreachable: network or server, after the retries.
        """
        http, folder = self._site(ref), self._folder(ref)

        def ask(name: str) -> Seen:
            with self._turn:
                return _seen(http, folder, name, ref)

        def look(names: Iterable[str]) -> Mapping[str, Seen]:
            threads = min(AT_ONCE, self._settings.jobs)
            return {seen.name: seen for seen in abreast(ask, names, threads)}

        def index(name: str) -> set[str]:
            try:
                return get_body(http, f"{folder}/{name}", f"{ref}: {name}", shards_in, INDEX_CAP).value
            except StatusError as error:
                raise _explained(error, f"{ref}: {name}") from error

        files = list_files(look, index, str(ref), host(folder))
        return Revision(ref, _id(files, str(ref)), files, "private" if http.token else "")

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` of the file as it was seen, in chunks of at most 1 MiB.

        A stream that breaks is resumed here, ``retries`` times without progress.

        Raises:
            Changed: it is another version by now, or gone.
            Corrupt: it has another size.
            AccessDenied: the server forbids it.
            Unreachable: network or server, after the retries.
        """
        http, url = self._site(revision.ref), f"{self._folder(revision.ref)}/{quote(file.path)}"
        what, pin = f"{revision.ref}: {file.path}", file.locator

        def accept(headers: Headers) -> None:
            check_pin(pin, headers, what)

        piece = Piece(start, stop, file.size)
        try:
            yield from get_bytes(http, url, piece, what, conditions=conditions_of(pin), accept=accept)
        except StatusError as error:
            if error.status in GONE | {412, 416}:
                raise Changed(f"{what}: it is not what was listed any more ({error.status})", hint=AGAIN) from error
            raise _explained(error, what) from error

    def _site(self, ref: AdapterRef) -> Http:
        settings, base = self._settings, self._folder(ref)
        site = "{}://{}:{}".format(*origin(base))
        if site not in self._sites:
            self._sites[site] = Http(
                base, settings.timeout_s, Retries(settings.retries), token=self._token, bounds=bounds_of(settings)
            )
        return self._sites[site]

    def _folder(self, ref: AdapterRef) -> str:
        """The address of the folder, at the endpoint that the rule names in place of the reference's own host."""
        if self._rule is None or self._rule.endpoint_url is None:
            return f"{ref.scheme}://{ref.location}"
        path = ref.location.partition("/")[2]
        return f"{self._rule.endpoint_url.rstrip('/')}/{path}".rstrip("/")

    @cached_property
    def _token(self) -> str:
        from lora_cli.sources.trusted import token_of, trust_of

        return token_of(self._rule, os.environ, trust_of(self._settings))


def _seen(http: Http, folder: str, name: str, ref: AdapterRef) -> Seen:
    # Nobody asked for the probe: what fails with it is said of the adapter.
    what = str(ref) if name == NOWHERE else f"{ref}: {name}"
    try:
        status, headers = get_headers(http, f"{folder}/{name}", what)
    except StatusError as error:
        if error.status == 416:
            return Seen(name, 200, file=RemoteFile(name, 0, sha256=EMPTY_SHA256))
        if error.status in GONE | {401, 403}:
            return Seen(name, error.status)
        raise _explained(error, what) from error
    if headers.get("Content-Type", "").partition(";")[0].strip().lower() in {"text/html", "application/xhtml+xml"}:
        return Seen(name, status, page=True)
    pin, size = pin_of(headers), size_in(status, headers)
    version = pin if names_a_version(pin, headers) else ""
    return Seen(name, status, file=RemoteFile(name, size, sha256_in(headers), locator=pin, version=version))


def _id(files: tuple[RemoteFile, ...], what: str) -> str:
    """A fingerprint of names, sizes and versions, after the weakest promise that holds them."""
    names = [file.sha256 or file.version for file in files if not file.defect]
    if not all(names):
        log.info("%s: by size alone, or by a time that is not past, versions are not told apart", what)
        return f"none-{secrets.token_hex(16)}"
    promise = "date" if any(name.startswith("date ") for name in names) else "etag"
    lines = "".join(f"{file.size} {file.sha256 or file.version} {file.path}\n" for file in files)
    return f"{promise}-{hashlib.sha256(lines.encode()).hexdigest()}"


def _explained(error: StatusError, what: str) -> LoraCliError:
    server, status = host(error.url), error.status
    if status in {401, 403, 407, 451}:
        return AccessDenied(f"{what}: {server} forbids it ({status})", hint="check who may read it")
    if status in GONE:
        return NotFound(f"{what}: {server} does not have it ({status})", hint="check the address")
    if status in {400, 405, 406}:
        hint = "give the address of a server of files"
        return NotFound(f"{what}: {server} does not hand out files there ({status})", hint=hint)
    return Unreachable(f"{what}: {server} answered {status}", hint="check the address, or try again later")
