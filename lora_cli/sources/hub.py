"""Repositories on the Hugging Face Hub, or on any server with the same API."""

import re
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
from lora_cli.sources.http import Headers, Piece, StatusError, get_bytes
from lora_cli.sources.http_json import get_json
from lora_cli.sources.hub_access import HubClient, path_hint
from lora_cli.sources.hub_cache import COMMIT, ONLINE, HubCache, hub_cache_folder
from lora_cli.sources.hub_listing import file_of, in_order, listed

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule

log = logger(__name__)


class HubSource:
    """The Hub as a source. A revision is a commit; sizes and digests are those that its tree lists."""

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        """Opens no connection and reads no token yet; ``rule`` says at which endpoint, and whose token."""
        self._hub = HubClient(settings, rule)
        self._settings = self._hub.settings

    @cached_property
    def _cache(self) -> HubCache:
        return HubCache(hub_cache_folder())

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
            known = self._cache.revision(ref)
            if known is None:
                raise Offline(f"{ref} is not cached and offline mode is on", hint=ONLINE)
            return known
        try:
            id, commit = self._commit(ref)
            id, found = self._files(ref, id, commit)
        except StatusError as error:
            raise self._hub.translate_error(error, ref) from error
        except Unreachable as error:
            raise self._unreachable(error, ref) from error
        if id != ref.location:
            log.warning("%s was renamed to %s; use hf://%s", ref, id, id)
            self._check_name(ref, id)
        files = in_order(found, str(ref))
        if ref.subfolder and not files:
            raise NotFound(f"{ref}: there is no folder {ref.subfolder} in {commit}", hint="check the spelling")
        return Revision(ref, commit, files)

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
        commit = file.locator or f"{_quoted(revision.ref.location)}/resolve/{revision.id}"
        place = f"{commit}/{_quoted(f'{revision.ref.subfolder}/{file.path}'.lstrip('/'))}"

        def check(headers: Headers) -> None:
            _check_version(headers, revision, file, what)

        piece = Piece(start, stop, file.size)
        try:
            yield from get_bytes(self._hub.http, f"{self._hub.endpoint}/{place}", piece, what, check)
        except StatusError as error:
            if error.status == 416:
                raise Corrupt(
                    f"{what}: it ends before byte {start}", hint="the source serves a different file"
                ) from error
            raise self._hub.translate_error(error, revision.ref, file.path) from error

    def cached_file(self, revision: Revision, file: RemoteFile) -> AbstractContextManager[int | None]:
        """A descriptor of the file as the Hub's own client has cached it, to be hashed; None when it has not."""
        return self._cache.blob(revision.ref.location, file)

    def _check_name(self, ref: AdapterRef, id: str) -> None:
        """Check the policies for the new name of a renamed repository."""
        for policy in self._settings.policies:
            from lora_cli.documents.policy_checks import source_violations

            for found in source_violations(policy, replace(ref, location=id)):
                raise Refused(f"{ref} was renamed to {id}: {found}", hint=found.hint)

    def _unreachable(self, error: Unreachable, ref: AdapterRef) -> Unreachable:
        """The error, with a hint to the cached revision where there is one."""
        with suppress(LoraCliError):
            if (known := self._cache.revision(ref)) is not None:
                hint = f"--offline can use the revision cached by the Hub's own client: {known.id}"
                return Unreachable(error.message, hint=hint)
        return Unreachable(error.message, hint=path_hint(ref) + error.hint) if path_hint(ref) else error

    def _commit(self, ref: AdapterRef) -> tuple[str, str]:
        """The repository's name and the commit; a reference with the commit costs no request."""
        if ref.revision is not None and COMMIT.fullmatch(ref.revision):
            return ref.location, ref.revision
        path = f"/api/models/{_quoted(ref.location)}/revision/{quote(ref.revision or 'main', safe='')}"
        answer = get_json(self._hub.http, self._hub.endpoint + path, str(ref), _sha)
        commit = answer.value
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            message = f"{ref}: the server returned no commit: it does not respond like a Hub"
            raise Unreachable(message, hint="check HF_ENDPOINT")
        return _name_in(answer.url, ref.location), commit

    def _files(self, ref: AdapterRef, id: str, commit: str) -> tuple[str, list[RemoteFile]]:
        """The repository's name, which a redirect may have changed, and the files of the commit's tree."""
        tree = f"{self._hub.endpoint}/api/models/{_quoted(id)}/tree/{commit}"
        tree += f"/{_quoted(ref.subfolder)}" if ref.subfolder else ""

        def read(entry: Any, url: str) -> RemoteFile | None:
            return file_of(entry, str(ref), ref.subfolder, f"{_quoted(_name_in(url, id))}/resolve/{commit}")

        hint = "use the adapter's folder: hf://ORG/NAME/FOLDER"
        url, files = listed(self._hub.http, tree, "recursive=true&expand=false", str(ref), read, hint=hint)
        return _name_in(url, id), files


def _quoted(path: str) -> str:
    return quote(path, safe="/")


def _sha(info: Any) -> Any:
    """The commit in the description of a repository."""
    return info.get("sha") if isinstance(info, dict) else None


def _name_in(url: str, name: str) -> str:
    """The repository's name in the URL that answered in the end; ``name`` if it holds none."""
    found = re.search(r"/api/models/([^/]+(?:/[^/]+)?)/(?:revision|tree)/", urlsplit(url).path)
    new = unquote(found[1]) if found else name
    return new if re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", new, re.ASCII) and ".." not in new else name


def _check_version(headers: Headers, revision: Revision, file: RemoteFile, what: str) -> None:
    """Refuses an answer whose commit, size or digest is not the listed one, before its body is read."""
    commit = headers.get("X-Repo-Commit", revision.id)
    if commit != revision.id and COMMIT.fullmatch(commit):
        raise Corrupt(f"{what}: commit {revision.id} was requested, but {commit} was sent")
    size = headers.get("X-Linked-Size", "")
    if file.size is not None and size.isdecimal() and size != str(file.size):
        raise Corrupt(f"{what}: it has {size[:20]} bytes now, but {file.size} were listed")
    etag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
    for digest in (file.sha256, file.git_sha1):
        if digest is not None and len(etag) == len(digest) and etag != digest and re.fullmatch(r"[0-9a-f]+", etag):
            raise Corrupt(f"{what}: digest {digest} was listed, but {etag} is offered")
