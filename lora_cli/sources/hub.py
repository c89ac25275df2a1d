"""Repositories on the Hugging Face Hub, or on any server that speaks like it. Two GETs list, one more reads."""

import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from lora_cli.core.log import logger
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import Corrupt, LoraCliError, NotFound, Offline, Refused, Unreachable
from lora_cli.settings import Settings
from lora_cli.sources.bounded_json import NoList, elements
from lora_cli.sources.http import Headers, Http, Piece, StatusError, get_bytes
from lora_cli.sources.http_json import get_body, get_json
from lora_cli.sources.hub_access import Token, access_in, explained, find_token
from lora_cli.sources.hub_cache import COMMIT, ONLINE, HubCache, hub_cache_folder
from lora_cli.sources.hub_listing import file_of, in_order
from lora_cli.sources.listed import Room
from lora_cli.sources.retries import Retries
from lora_cli.sources.ssrf_guard import bounds_of
from lora_cli.sources.tokens import token_of
from lora_cli.sources.trusted import trust_of

if TYPE_CHECKING:
    from lora_cli.documents.manifest import SourceRule

MOST_PAGES = 200
PAGE_CAP = 16 * 1024 * 1024
"""So many bytes a page of a listing has at most; a mirror may send all 10 000 entries in one."""

LISTING_TIMEOUTS = 10
"""All pages of a listing together take at most so many times the timeout."""

log = logger(__name__)


class HubSource:
    """The Hub as a source. A revision is a commit; sizes and digests are those that its tree lists.

    The token is looked up once, when the first request is made, and sent to the Hub's own endpoint only. At an endpoint
    that a manifest's rule names, nobody is logged in but by the rule's own ``token_env``.
    """

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        """Opens no connection and reads no token yet; ``rule`` says at which endpoint, and whose token."""
        self._rule = rule
        self._elsewhere = rule is not None and bool(rule.endpoint_url)
        endpoint = (rule.endpoint_url if rule is not None else None) or settings.hub_endpoint
        self._settings = replace(settings, hub_endpoint=endpoint.rstrip("/"))

    @cached_property
    def _token(self) -> Token:
        import os

        if self._rule is not None and self._rule.token_env:
            return Token(token_of(self._rule, os.environ, trust_of(self._settings)), self._rule.token_env)
        return Token() if self._elsewhere else find_token(os.environ)

    @cached_property
    def _cache(self) -> HubCache:
        import os

        return HubCache(hub_cache_folder(os.environ))

    @cached_property
    def _http(self) -> Http:
        settings = self._settings
        return Http(
            settings.hub_endpoint,
            settings.timeout_s,
            Retries(settings.retries),
            token=self._token.value,
            bounds=bounds_of(settings),
        )

    def resolve(self, ref: AdapterRef) -> Revision:
        """The commit that ``ref`` means now, and its files: one request for a branch or tag, then one a page.

        A repository that was renamed is read under its new name, and the log says so.

        Raises:
            NotFound: there is no such repository, revision or folder.
            AccessDenied: it is private or gated, or the token is bad.
            Refused: the listing holds a path that leads out of the adapter, or too many, or the new name is forbidden.
            Unreachable: network or server, after the retries.
            Offline: the network is switched off, and the cache of the Hub's client does not know it.
        """
        if self._settings.offline:
            return self._known(ref)
        try:
            id, commit, access = self._commit(ref)
            id, listed = self._files(ref, id, commit)
        except StatusError as error:
            raise explained(error, ref, self._token, self._settings.hub_endpoint) from error
        except Unreachable as error:
            raise self._without_it(error, ref) from error
        if id != ref.location:
            log.warning("%s is now called %s; write hf://%s", ref, id, id)
            self._check_name(ref, id)
        files = in_order(listed, str(ref))
        if ref.subfolder and not files:
            raise NotFound(f"{ref}: there is no folder {ref.subfolder} in {commit}", hint="check its spelling")
        return Revision(ref, commit, files, access)

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` of the file in exactly that commit, in chunks of at most 1 MiB.

        A stream that breaks is resumed here, ``retries`` times without progress.

        Raises:
            Corrupt: the server sends another commit, digest or size than was listed.
            AccessDenied: the repository is gated (its listing is not).
            Unreachable: network or server, after the retries.
            Offline: the network is switched off, and the cache of the Hub's client does not have it.
        """
        if self._settings.offline:
            yield from self._cache.read(revision, file, start, stop)
            return
        what = f"{revision.ref}: {file.path}"
        place = _place_of(revision, file)

        def check(headers: Headers) -> None:
            _check_version(headers, revision, file, what)

        try:
            piece = Piece(start, stop, file.size)
            yield from get_bytes(self._http, f"{self._settings.hub_endpoint}/{place}", piece, what, check)
        except StatusError as error:
            if error.status == 416:
                raise Corrupt(f"{what}: it ends before byte {start}", hint="the origin serves another file") from error
            raise explained(error, revision.ref, self._token, self._settings.hub_endpoint, file.path) from error

    def held(self, revision: Revision, file: RemoteFile) -> AbstractContextManager[int | None]:
        """A descriptor of the file as the Hub's own client has cached it, to be hashed; None when it has not."""
        return self._cache.blob(revision.ref.location, file)

    def _check_name(self, ref: AdapterRef, id: str) -> None:
        """What a policy forbids, it forbids also under the name that a repository had before."""
        for policy in self._settings.policies:
            from lora_cli.documents.policy_checks import source_violations

            for found in source_violations(policy, replace(ref, location=id)):
                raise Refused(f"{ref} is now called {id}: {found}", hint=found.hint)

    def _without_it(self, error: Unreachable, ref: AdapterRef) -> Unreachable:
        """The error, with what can be had while the Hub is away."""
        with suppress(LoraCliError):
            if (known := self._cache.revision(ref)) is not None:
                hint = f"--offline takes what the Hub's own client has cached of it: revision {known.id}"
                return Unreachable(error.message, hint=hint)
        return error

    def _known(self, ref: AdapterRef) -> Revision:
        revision = self._cache.revision(ref)
        if revision is None:
            raise Offline(f"{ref} is not in the cache, and the network is switched off", hint=ONLINE)
        return revision

    def _commit(self, ref: AdapterRef) -> tuple[str, str, str]:
        """The repository's name, the commit and the access class; a reference with the commit costs no request."""
        if ref.revision is not None and COMMIT.fullmatch(ref.revision):
            return ref.location, ref.revision, ""
        path = f"/api/models/{_quoted(ref.location)}/revision/{quote(ref.revision or 'main', safe='')}"
        answer = get_json(self._http, self._settings.hub_endpoint + path, str(ref), _commit_and_access)
        commit, access = answer.value
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise _unlike_a_hub(ref, "named no commit")
        return _name_in(answer.url, ref.location), commit, access

    def _files(self, ref: AdapterRef, id: str, commit: str) -> tuple[str, list[RemoteFile]]:
        """The repository's name, which a redirect may have changed, and the files of the commit's tree.

        It is read entry by entry: however much a server lists, little of it is in memory.
        """
        tree = f"{self._settings.hub_endpoint}/api/models/{_quoted(id)}/tree/{commit}"
        folder = f"/{_quoted(ref.subfolder)}" if ref.subfolder else ""
        query, hint = "recursive=true&expand=false", "name the adapter's folder: hf://ORG/NAME/FOLDER"
        files, room = list[RemoteFile](), Room(str(ref), hint)

        def read(body: Iterator[bytes], url: str) -> tuple[list[RemoteFile], Room]:
            found, left = list[RemoteFile](), room.copy()
            locator = f"{_quoted(_name_in(url, id))}/resolve/{commit}"
            for entry in elements(body):
                if (file := file_of(entry, str(ref), ref.subfolder, locator)) is not None:
                    found.append(file)
                left.take(*((file.path,) if file is not None else ()))
            return found, left

        until = time.monotonic() + LISTING_TIMEOUTS * self._settings.timeout_s
        for _ in range(MOST_PAGES):
            try:
                answer = get_body(self._http, f"{tree}{folder}?{query}", str(ref), read, PAGE_CAP)
            except NoList as error:
                raise _unlike_a_hub(ref, "sent no listing") from error
            found, room = answer.value
            files += found
            query = _next_query(answer.headers)
            if not query:
                return _name_in(answer.url, id), files
            if time.monotonic() > until:
                break
        told = f"{ref}: its listing has over {MOST_PAGES} pages, or takes over {LISTING_TIMEOUTS} times --timeout"
        raise Refused(told, hint=hint)


def _place_of(revision: Revision, file: RemoteFile) -> str:
    """Where a file is at the endpoint; of one that was never listed, its reference and commit say in what."""
    commit = file.locator or f"{_quoted(revision.ref.location)}/resolve/{revision.id}"
    return f"{commit}/{_quoted(f'{revision.ref.subfolder}/{file.path}'.lstrip('/'))}"


def _quoted(path: str) -> str:
    return quote(path, safe="/")


def _unlike_a_hub(ref: AdapterRef, what: str) -> Unreachable:
    return Unreachable(f"{ref}: the server {what}: it does not answer like a Hub", hint="check HF_ENDPOINT")


def _commit_and_access(info: Any) -> tuple[Any, str]:
    """What a description of a repository says of its commit, and of who may read it."""
    return (info.get("sha"), access_in(info)) if isinstance(info, dict) else (None, "")


def _name_in(url: str, name: str) -> str:
    """The repository's name in the URL that answered in the end; ``name`` if it holds none."""
    found = re.search(r"/api/models/([^/]+(?:/[^/]+)?)/(?:revision|tree)/", urlsplit(url).path)
    new = unquote(found[1]) if found else name
    return new if re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", new, re.ASCII) and ".." not in new else name


def _next_query(headers: Headers) -> str:
    """The query of the next page, or nothing. The link's host and path are not used: a mirror may send its origin's."""
    found = re.search(r"<([^<>]{1,8192})>\s*;[^,<]*\brel=\"?next\"?", headers.get("Link", "")[:16_384])
    query = found[1].partition("?")[2].partition("#")[0] if found else ""
    return query if re.fullmatch(r"[!-~]*", query) else ""


def _check_version(headers: Headers, revision: Revision, file: RemoteFile, what: str) -> None:
    """Refuses an answer whose commit, size or digest is not the listed one, before its body is read."""
    commit = headers.get("X-Repo-Commit", revision.id)
    if commit != revision.id and COMMIT.fullmatch(commit):
        raise Corrupt(f"{what}: commit {revision.id} was asked for, and {commit} was sent")
    size = headers.get("X-Linked-Size", "")
    if file.size is not None and size.isdecimal() and size != str(file.size):
        raise Corrupt(f"{what}: it has {size[:20]} bytes now, where {file.size} were listed")
    etag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
    for digest in (file.sha256, file.git_sha1):
        if digest is not None and len(etag) == len(digest) and etag != digest and re.fullmatch(r"[0-9a-f]+", etag):
            raise Corrupt(f"{what}: digest {digest} was listed, and {etag} is offered")
