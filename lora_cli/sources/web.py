"""Adapters on any web server: config and weights below one address, each range of exactly the version that was seen."""

import base64
import hashlib
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote

from lora_cli.core.adapter_files import BASE_CONFIG, BESIDE, CONFIG, INDEX_SUFFIX, PICKLED, SIGNATURE, WEIGHTS
from lora_cli.core.log import logger
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.daemon_threads import map_in_threads
from lora_cli.errors import AccessDenied, Changed, LoraCliError, NotFound, Refused, Unreachable
from lora_cli.settings import Settings
from lora_cli.sources.http import AGAIN, Headers, Http, Piece, StatusError, get_bytes, get_headers, host, origin
from lora_cli.sources.http_json import get_body
from lora_cli.sources.retries import Retries
from lora_cli.sources.ssrf_guard import allows_private

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule

SETTLED_S = 2.0
"""A time of change has whole seconds: a file younger than that could change again and keep it."""

_STRONG = re.compile(r'"[!#-~]{1,512}"')
_WEAK = re.compile(r'W/"[!#-~]{1,512}"')
_DATE = re.compile(r"[A-Za-z]{3}, \d{2} [A-Za-z]{3} \d{4} \d{2}:\d{2}:\d{2} GMT", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Artifactory and Nexus; an object's own metadata behind a web address.
_DIGEST_HEADERS = ("X-Checksum-Sha256", "x-amz-meta-sha256", "x-goog-meta-sha256")


def pin_of(headers: Headers) -> str:
    """The version of a response: ``etag "…"``, ``date …``, ``weak W/"…"`` or "".

    A strong ETag names a version (RFC 9110, 8.8.3), and ``If-Match`` asks for it and no other. Without one, the time of
    the last change has to do, with ``If-Unmodified-Since``, and else the size alone.
    """
    etag, date = headers.get("ETag", "").strip(), headers.get("Last-Modified", "").strip()
    if _STRONG.fullmatch(etag):
        return f"etag {etag}"
    if _DATE.fullmatch(date):
        return f"date {date}"
    return f"weak {etag}" if _WEAK.fullmatch(etag) else ""


def names_a_version(pin: str, headers: Headers) -> bool:
    """Whether the pin will have changed when the file has: it is an ETag, or a time that is past for good."""
    if not pin.startswith("date "):
        return pin.startswith("etag ")
    from email.utils import parsedate_to_datetime

    try:
        now, then = (parsedate_to_datetime(text) for text in (headers.get("Date", ""), pin.removeprefix("date ")))
        return (now - then).total_seconds() >= SETTLED_S
    except (ValueError, TypeError, OverflowError):
        return False


def conditions_of(pin: str) -> Headers:
    """The header that asks for this version only."""
    kind, _, value = pin.partition(" ")
    names = {"etag": "If-Match", "date": "If-Unmodified-Since"}
    return {names[kind]: value} if kind in names else {}


def check_pin(pin: str, headers: Headers, what: str) -> None:
    """Compares an answer's version with the listed one: not every server obeys a condition.

    Raises:
        Changed: it is another one.
    """
    found = pin_of(headers)
    if pin and found != pin:
        raise Changed(
            f"{what}: it changed after it was listed (version {found or 'unknown'}, was {pin})",
            hint="it changed at the source, or several servers serve different versions: run the command again",
        )


def sha256_in(headers: Headers) -> str | None:
    """The sha256 of the whole file in an answer: ``Repr-Digest`` (RFC 9530), or a header of repositories."""
    if found := re.search(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):", headers.get("Repr-Digest", "")[:1000]):
        return base64.b64decode(found[1]).hex()
    digests = (headers.get(name, "").strip().lower() for name in _DIGEST_HEADERS)
    return next((digest for digest in digests if _SHA256.fullmatch(digest)), None)


def size_in(status: int, headers: Headers) -> int | None:
    """The size of the whole file in bytes; None if the answer does not say it."""
    if headers.get("Content-Encoding", "identity") != "identity":
        return None
    if status == 206:
        total = headers.get("Content-Range", "").rpartition("/")[2].strip()
    else:
        total = headers.get("Content-Length", "")
    return int(total) if re.fullmatch(r"\d{1,18}", total, re.ASCII) else None


NOWHERE = "no-such-file.lora-cli"
"""A name that no adapter has: what a server says to it is what it says when there is nothing."""

MOST_SHARDS = 1000
GONE, FORBIDDEN = frozenset({404, 410}), frozenset({401, 403})
INDEX_CAP = 16 * 1024 * 1024
LONGEST_SHARD = 64
_SHARD = re.compile(rb'"(adapter_model-[0-9]{5}-of-[0-9]{5}\.(?:safetensors|bin))"')


@dataclass(frozen=True, slots=True)
class ProbedFile:
    """The answer to one name: its status, whether it was a web page, and the file, if it is one."""

    name: str
    status: int
    page: bool = False
    file: RemoteFile | None = None


Probe = Callable[[Iterable[str]], Mapping[str, ProbedFile]]
"""Asks for names, several at once."""


def list_files(probe: Probe, index: Callable[[str], set[str]], what: str, server: str) -> tuple[RemoteFile, ...]:
    """The files of an adapter that are there: config and weights first, then what may be next to them.

    There is no listing to ask for: every name is asked for. A page about a folder is not read as one: servers write it
    for people, and each in its own way. ``index`` gives the shards that a file names. Pickled weights are asked for
    only where there are no others, and the config of a base model only where there is no adapter.

    Raises:
        NotFound: there are no such files, or the server has something for every name.
        AccessDenied: the server wants to know who asks, or forbids a file.
        Refused: an index names over 1000 shards.
    """
    seen = dict(probe((CONFIG, WEIGHTS, WEIGHTS + INDEX_SUFFIX, NOWHERE)))
    weights: tuple[str, ...] = (WEIGHTS,)
    if not any(seen[name].file for name in (WEIGHTS, WEIGHTS + INDEX_SUFFIX)):
        weights = PICKLED
        seen |= probe(name + suffix for name in PICKLED for suffix in ("", INDEX_SUFFIX))
    _check_server(seen, what, server)
    found = [name + suffix for name in weights for suffix in ("", INDEX_SUFFIX) if seen[name + suffix].file]
    if not found:
        for one in seen.values():
            if one.name not in {CONFIG, NOWHERE} and one.status in FORBIDDEN:
                raise _denied(one, what, server)
    if not found and not seen[CONFIG].file:
        if base := probe([BASE_CONFIG])[BASE_CONFIG].file:
            return (base,)
        raise _not_an_adapter(seen, what, server)
    shards = sorted({shard for name in found if name.endswith(INDEX_SUFFIX) for shard in index(name)})
    if len(shards) > MOST_SHARDS:
        raise Refused(f"{what}: its index lists over {MOST_SHARDS} shards", hint="an adapter has only a few files")
    seen |= probe((*sorted(BESIDE), SIGNATURE, *shards))
    _check_server(seen, what, server)
    missing = [RemoteFile(name, None, defect="is listed in the index but missing") for name in shards]
    files = {file.path: file for file in missing} | {one.name: one.file for one in seen.values() if one.file}
    return tuple(file for _, file in sorted(files.items()))


def shards_in(index: Iterable[bytes], _: str = "") -> set[str]:
    """The shards that an index names, as it comes; whatever else it names is no file of an adapter."""
    found: set[str] = set()
    before = b""
    for chunk in index:
        text = before + chunk
        found.update(name.decode() for name in _SHARD.findall(text))
        if len(found) > MOST_SHARDS:
            break
        before = text[-LONGEST_SHARD:]
    return found


def _check_server(seen: Mapping[str, ProbedFile], what: str, server: str) -> None:
    """Whether the answers say what is there at all."""
    if seen[NOWHERE].file is not None:
        hint = "use the address of a file server"
        raise NotFound(f"{what}: {server} returns a file for every name, so the existing files are unknown", hint=hint)
    # Object stores forbid what is not there to those who may not list.
    forbidden = FORBIDDEN - {seen[NOWHERE].status}
    for one in seen.values():
        if one.status in (FORBIDDEN if one.name == CONFIG else forbidden):
            raise _denied(one, what, server)


def _denied(one: ProbedFile, what: str, server: str) -> LoraCliError:
    if one.status == 401:
        hint = "name the variable with a token in the settings file: [[sources]], match and token_env"
        return AccessDenied(f"{what}: {server} requires authentication (401, at {one.name})", hint=hint)
    hint = "check the path and its permissions; some servers also respond like this for missing files"
    return AccessDenied(f"{what}: {server} denies access to {one.name} ({one.status})", hint=hint)


def _not_an_adapter(seen: Mapping[str, ProbedFile], what: str, server: str) -> LoraCliError:
    if seen[CONFIG].page:
        hint = "it may be a login page or an application: use the address of the files themselves"
        return NotFound(f"{what}: {server} returns a web page instead of {CONFIG}", hint=hint)
    status = seen[CONFIG].status
    hint = f"use the folder that contains {CONFIG}; archives are not unpacked"
    return NotFound(f"{what}: there is neither {CONFIG} nor {WEIGHTS} ({server} answered {status})", hint=hint)


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
        """The files below the address that ``ref`` names, at this moment: some twenty requests of a byte each.

        Raises:
            NotFound: there is neither config nor weights, or the server has something for every name.
            AccessDenied: the server wants to know who asks, or forbids a file.
            UsageError: the variable of the token is not set.
            Unreachable: network or server, after the retries.
        """
        http, folder = self._site(ref), self._folder(ref)

        def ask(name: str) -> ProbedFile:
            with self._turn:
                return _probe(http, folder, name, ref)

        def probe(names: Iterable[str]) -> Mapping[str, ProbedFile]:
            threads = min(AT_ONCE, self._settings.jobs)
            return {seen.name: seen for seen in map_in_threads(ask, names, threads)}

        def index(name: str) -> set[str]:
            try:
                return get_body(http, f"{folder}/{name}", f"{ref}: {name}", shards_in, INDEX_CAP).value
            except StatusError as error:
                raise _translate_error(error, f"{ref}: {name}") from error

        try:
            files = list_files(probe, index, str(ref), host(folder))
        except AccessDenied as error:
            if not http.token or self._rule is None:
                raise
            hint = f"the token in {self._rule.token_env} is invalid or has no read access"
            raise AccessDenied(error.message, hint=hint) from error
        return Revision(ref, _id(files, str(ref)), files)

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
                raise Changed(f"{what}: it changed after it was listed ({error.status})", hint=AGAIN) from error
            raise _translate_error(error, what) from error

    def _site(self, ref: AdapterRef) -> Http:
        settings, base = self._settings, self._folder(ref)
        site = "{}://{}:{}".format(*origin(base))
        if site not in self._sites:
            self._sites[site] = Http(
                base, settings.timeout_s, Retries(settings.retries), token=self._token, private=allows_private(settings)
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
        from lora_cli.sources.tokens import token_of

        return token_of(self._rule, os.environ)


def _probe(http: Http, folder: str, name: str, ref: AdapterRef) -> ProbedFile:
    # Nobody asked for the probe: what fails with it is said of the adapter.
    what = str(ref) if name == NOWHERE else f"{ref}: {name}"
    try:
        status, headers = get_headers(http, f"{folder}/{name}", what)
    except StatusError as error:
        if error.status == 416:
            return ProbedFile(name, 200, file=RemoteFile(name, 0, sha256=EMPTY_SHA256))
        if error.status in GONE | {401, 403}:
            return ProbedFile(name, error.status)
        raise _translate_error(error, what) from error
    if headers.get("Content-Type", "").partition(";")[0].strip().lower() in {"text/html", "application/xhtml+xml"}:
        return ProbedFile(name, status, page=True)
    pin, size = pin_of(headers), size_in(status, headers)
    version = pin if names_a_version(pin, headers) else ""
    return ProbedFile(name, status, file=RemoteFile(name, size, sha256_in(headers), locator=pin, version=version))


def _id(files: tuple[RemoteFile, ...], what: str) -> str:
    """A fingerprint of names, sizes and versions, after the weakest promise that holds them."""
    names = [file.sha256 or file.version for file in files if not file.defect]
    if not all(names):
        log.info("%s: versions cannot be distinguished by size alone, or by a time that is not in the past", what)
        return f"none-{secrets.token_hex(16)}"
    promise = "date" if any(name.startswith("date ") for name in names) else "etag"
    lines = "".join(f"{file.size} {file.sha256 or file.version} {file.path}\n" for file in files)
    return f"{promise}-{hashlib.sha256(lines.encode()).hexdigest()}"


def _translate_error(error: StatusError, what: str) -> LoraCliError:
    server, status = host(error.url), error.status
    if status in {401, 403, 407, 451}:
        return AccessDenied(f"{what}: {server} denies access ({status})", hint="check its permissions")
    if status in GONE:
        return NotFound(f"{what}: not found on {server} ({status})", hint="check the address")
    if status in {400, 405, 406}:
        hint = "use the address of a file server"
        return NotFound(f"{what}: {server} does not serve files there ({status})", hint=hint)
    return Unreachable(f"{what}: {server} answered {status}", hint="check the address, or try again later")
