"""Repositories on the Hugging Face Hub, or on any server with the same API. A revision is a commit."""

import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from lora_cli.core.log import logger
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import (
    AccessDenied,
    Corrupt,
    LoraCliError,
    MachineError,
    NotFound,
    Offline,
    Refused,
    Unreachable,
    UsageError,
)
from lora_cli.redaction import remember
from lora_cli.settings import Settings
from lora_cli.sources import MOST_ENTRIES, Source, at_most_10_000
from lora_cli.sources.http import Headers, Http, Piece, StatusError, TooLarge, get_bytes, get_json, host, next_query
from lora_cli.sources.ssrf_guard import allows_private
from lora_cli.sources.tokens import token_of

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule

COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
TOKENS = ("HF_OIDC_RESOURCE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
CHUNK = 1 << 20
MOST_PAGES = 200
LISTING_S = 60.0
"""After so many seconds no other page of a listing is asked for."""

ONLINE = "unset --offline, LORA_CLI_OFFLINE and HF_HUB_OFFLINE, or fetch it first with network access"

log = logger(__name__)


class HubSource(Source):
    """The Hub as a source. A revision is a commit; sizes and digests are those that it lists.

    The token is looked up once, when the first request is made, and sent to the endpoint only. At an endpoint that a
    rule names, only the rule's own ``token_env`` is used.
    """

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        """Opens no connection and reads no token yet; ``rule`` says at which endpoint, and whose token."""
        super().__init__(settings, rule)
        self._endpoint = ((rule and rule.endpoint_url) or settings.hub_endpoint).rstrip("/")

    @cached_property
    def _http(self) -> Http:
        private = allows_private(self._settings)
        return Http(self._endpoint, self._settings.timeout_s, token=self._token[0], private=private)

    @cached_property
    def _token(self) -> tuple[str, str]:
        """The token, "" for none, and where it was found."""
        if self._rule is not None and (self._rule.endpoint_url or self._rule.token_env):
            return token_of(self._rule, os.environ), self._rule.token_env or ""
        return _users_token()

    def resolve(self, ref: AdapterRef) -> Revision:
        """The commit that ``ref`` means now, and its files: one request, or one a page for a very large repository.

        A repository that was renamed is read, and the log says its new name.

        Raises:
            NotFound: there is no such repository, revision or folder.
            AccessDenied: it is private or gated, or the token is bad.
            Refused: the listing has over 10,000 entries.
            Unreachable: network or server, after the retries.
            Offline: the network is switched off, and the cache of the Hub's client does not know it.
        """
        if self._settings.offline:
            if known := _cached_revision(ref):
                return known
            raise Offline(f"{ref} is not cached and offline mode is on", hint=ONLINE)
        try:
            return super().resolve(ref)
        except Unreachable as error:
            hint = _path_hint(ref) + error.hint
            with suppress(LoraCliError):
                if known := _cached_revision(ref):
                    hint = f"--offline can use the revision cached by the Hub's own client: {known.id}"
            raise Unreachable(error.message, hint=hint) from error

    def _resolve(self, ref: AdapterRef) -> Revision:
        try:
            name, commit, entries = self._listed(ref)
        except StatusError as error:
            raise self._refusal(error, ref) from error
        if name != ref.location:
            log.warning("%s was renamed to %s; use hf://%s", ref, name, name)
        return Revision(replace(ref, location=name), commit, _files(entries, ref, commit))

    def _stream(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        ref, what = revision.ref, f"{revision.ref}: {file.path}"
        if self._settings.offline:
            yield from self._read_cached(revision, file, start, stop)
            return
        path = quote(f"{ref.subfolder}/{file.path}".lstrip("/"))
        url = f"{self._endpoint}/{quote(ref.location)}/resolve/{revision.id}/{path}"
        piece = Piece(start, stop, file.size)
        try:
            yield from get_bytes(self._http, url, piece, what, lambda sent: _check_version(sent, revision, file, what))
        except StatusError as error:
            if error.status == 416:
                reason = f"{what}: it ends before byte {start}"
                raise Corrupt(reason, hint="the source serves a different file") from error
            raise self._refusal(error, ref, file.path) from error

    @contextmanager
    def local_copy(self, revision: Revision, file: RemoteFile) -> Iterator[int | None]:
        """A descriptor of the file as the Hub's own client has cached it, to be hashed; None when it has not."""
        blob = _cache_folder(revision.ref) / "blobs" / str(file.sha256 or file.git_sha1)
        try:
            # Without O_NONBLOCK opening a FIFO would block.
            descriptor = os.open(blob, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            yield None
            return
        try:
            status = os.fstat(descriptor)
            fits = stat.S_ISREG(status.st_mode) and file.size in (None, status.st_size)
            if fits:
                log.info("%s: %s read from the cache of the Hub's own client", revision.ref, file.path)
            yield descriptor if fits else None
        finally:
            os.close(descriptor)

    def _read_cached(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        what = f"{revision.ref}: {file.path}"
        with self.local_copy(revision, file) as descriptor:
            if descriptor is None:
                raise Offline(f"{what} is not cached and offline mode is on", hint=ONLINE)
            try:
                size = os.fstat(descriptor).st_size
                end = size if stop is None else min(stop, size)
                while start < end and (chunk := os.pread(descriptor, min(CHUNK, end - start), start)):
                    start += len(chunk)
                    yield chunk
            except OSError as error:
                raise MachineError(f"{what}: {error.strerror}", hint="check HF_HUB_CACHE") from error

    def _listed(self, ref: AdapterRef) -> tuple[str, str, list[Any]]:
        """The repository's name, which a redirect may have changed, the commit, and what is listed of it."""
        url = f"{self._endpoint}/api/models/{quote(ref.location)}/revision/{quote(ref.revision or 'main', safe='')}"
        try:
            info, answered, _ = get_json(self._http, f"{url}?blobs=true", str(ref))
        except TooLarge:
            info, answered, _ = get_json(self._http, f"{url}?expand=sha", str(ref))
        info = info if isinstance(info, dict) else {}
        name, commit, entries = _name_in(answered, ref.location), info.get("sha"), info.get("siblings")
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            reason = f"{ref}: the server returned no commit: it does not respond like a Hub"
            raise Unreachable(reason, hint="check HF_ENDPOINT")
        if COMMIT.fullmatch(ref.revision or "") and commit != ref.revision:
            raise Corrupt(f"{ref}: the server returned commit {commit}", hint="check HF_ENDPOINT")
        entries = entries if isinstance(entries, list) and len(entries) <= MOST_ENTRIES else []
        if not entries or not all(isinstance(one, dict) and "size" in one for one in entries):
            # Too many for one answer, or a mirror that ignores ``blobs``.
            entries = list(at_most_10_000(self._tree(ref, name, commit), str(ref)))
        return name, commit, entries

    def _tree(self, ref: AdapterRef, name: str, commit: str) -> Iterator[Any]:
        """The entries below the folder of ``ref``, page by page.

        Of the link to the next page only the query is used, so that no other server is sent the token.
        """
        url = f"{self._endpoint}/api/models/{quote(name)}/tree/{commit}"
        url += f"/{quote(ref.subfolder)}" if ref.subfolder else ""
        hint = "use the adapter's folder: hf://ORG/NAME/FOLDER"
        query, until = "recursive=true&expand=false", time.monotonic() + LISTING_S
        for _ in range(MOST_PAGES):
            listed, _, headers = get_json(self._http, f"{url}?{query}", str(ref))
            yield from listed if isinstance(listed, list) else [None]
            query = next_query(headers)
            if not query:
                return
            if time.monotonic() > until:
                break
        reason = f"{ref}: its listing has over {MOST_PAGES} pages, or takes over {LISTING_S:.0f} s"
        raise Refused(reason, hint=hint)

    def _refusal(self, error: StatusError, ref: AdapterRef, path: str = "") -> LoraCliError:
        """The Hub's refusal in words, with a hint; ``path`` is the file that was read, if any.

        The Hub's headers decide; their meaning is that of ``huggingface_hub.utils.hf_raise_for_status``.
        """
        (token, found_in), status, server = self._token, error.status, host(error.url)
        message, page = error.message, f"{self._endpoint}/{ref.location}"
        detail = f": {message}" if message else ""
        kind: type[LoraCliError] = AccessDenied
        if error.code == "GatedRepo" and not token:
            reason = " is gated: request access first"
            hint = f"accept its terms at {page}, then set HF_TOKEN or run `hf auth login`"
        elif error.code == "GatedRepo":
            reason = f" is gated, and the account of the token in {found_in} has no access"
            hint = f"request access at {page}, or use a token that can read gated repositories"
        elif error.code == "RevisionNotFound":
            kind, reason = NotFound, f": {ref.location} has no branch, tag or commit {ref.revision or 'main'!r}"
            hint = f"see {page}/tree/main for its branches and commits"
        elif error.code == "EntryNotFound":
            kind, reason = NotFound, f": there is no {f'file {path}' if path else f'folder {ref.subfolder}'}"
            hint = f"see {page} for its contents"
        elif token and (message.startswith("Invalid credentials") or (status == 401 and not error.code)):
            reason = f": {server} does not accept the token in {found_in}"
            hint = "renew it with `hf auth login`, or unset it: a public repository needs no token"
        elif error.code == "RepoNotFound" or status == 401:
            reason = f": there is no repository {ref.location}, or it is private"
            hint = f"{_path_hint(ref)}check the spelling; if it is private, set HF_TOKEN or run `hf auth login`"
            if token:
                kind, reason = NotFound, f"{reason} and the token in {found_in} cannot read it"
                hint = f"{_path_hint(ref)}check the spelling, and which repositories the token can read"
        elif "disabled" in message:
            reason, hint = f": {server} disabled it{detail}", "ask its owner, or the Hub's support"
        elif status in (403, 451):
            reason, hint = (
                f": {server} denies access ({status}){detail}",
                "check the permissions of the token, and for a proxy",
            )
        elif status in (404, 410):
            kind, reason, hint = (
                NotFound,
                f": not found on {server} ({status}){detail}",
                "check the spelling, and HF_ENDPOINT",
            )
        else:
            kind, reason = Unreachable, f": {server} answered {status}{detail}"
            hint = "check HF_ENDPOINT, or try again later"
        return kind(f"{ref}{reason}", hint=hint)


def _users_token() -> tuple[str, str]:
    """The token of this user as ``huggingface_hub`` finds it, and where."""
    from huggingface_hub import constants

    found_in = next((name for name in TOKENS if os.environ.get(name, "").strip()), constants.HF_TOKEN_PATH)
    # The library takes a fifth of a second to import: it is asked where there is something to find.
    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN or not (found_in in TOKENS or Path(found_in).is_file()):
        return "", ""
    from huggingface_hub import get_token

    try:
        token = get_token() or ""
    except Exception as error:  # whatever its HTTP client raises while it exchanges an OIDC token
        hint = "check HF_OIDC_RESOURCE and HF_OIDC_ID_TOKEN, or set HF_TOKEN"
        raise AccessDenied(f"cannot get a Hub token ({type(error).__name__})", hint=hint) from error
    # The value is not repeated, and never reaches a library that would repeat it in its own error.
    if token and not re.fullmatch(r"[!-~]{1,4000}", token):
        hint = "a token is printable ASCII without spaces: hf_…"
        raise UsageError(f"the value in {found_in} is not a valid token", hint=hint)
    remember(token)
    return token, found_in


def _path_hint(ref: AdapterRef) -> str:
    """The beginning of a hint where a reference may have been meant as a path: its first folder is on this machine."""
    is_folder = Path(ref.location.partition("/")[0]).is_dir()
    return f"if you mean a path: there is no {ref.location} in this folder; " if is_folder else ""


def _cache_folder(ref: AdapterRef) -> Path:
    """Where ``huggingface_hub`` caches a repository: ``refs``, ``snapshots``, and ``blobs`` named by their digests."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, "--".join(("models", *ref.location.split("/"))))


def _cached_revision(ref: AdapterRef) -> Revision | None:
    """What ``huggingface_hub`` has downloaded of ``ref``; None if it is nothing. It may not be all that there is."""
    folder, commit = _cache_folder(ref), ref.revision or "main"
    with suppress(OSError, UnicodeError):
        commit = (folder / "refs" / commit).read_text("ascii").strip()
    snapshot, entries = folder / "snapshots" / commit, []
    for path in sorted(snapshot.rglob("*")) if COMMIT.fullmatch(commit) else ():
        if path.is_symlink():
            digest, inside = path.readlink().name, path.relative_to(snapshot).as_posix()
            size = path.stat().st_size if path.exists() else None
            lfs = {"sha256": digest} if SHA256.fullmatch(digest) else None
            entries.append({"path": inside, "size": size, "oid": digest, "lfs": lfs})
    return Revision(ref, commit, _files(entries, ref, commit), whole=False) if entries else None


def _files(entries: Iterable[Any], ref: AdapterRef, commit: str) -> tuple[RemoteFile, ...]:
    """The listed files below the folder of ``ref``, as they come of ``?blobs=true`` or of the tree.

    Raises:
        Refused: there are over 10,000.
        NotFound: there is no such folder.
        Unreachable: an entry is malformed.
    """
    files, inside = list[RemoteFile](), f"{ref.subfolder}/" if ref.subfolder else ""
    for entry in at_most_10_000(entries, str(ref)):
        path = entry.get("rfilename", entry.get("path")) if isinstance(entry, dict) else None
        if not isinstance(path, str):
            reason = f"{ref}: the server sent no listing: it does not respond like a Hub"
            raise Unreachable(reason, hint="check HF_ENDPOINT")
        if entry.get("type", "file") != "file" or not path.startswith(inside):
            continue
        size, sha256, git_sha1 = entry.get("size"), None, str(entry.get("blobId", entry.get("oid")))
        # An LFS file has a sha256; its git blob is the pointer to it.
        if isinstance(lfs := entry.get("lfs"), dict):
            size, git_sha1 = lfs.get("size", size), ""
            sha256 = str(lfs.get("sha256", lfs.get("oid"))).removeprefix("sha256:")
        files.append(
            RemoteFile(
                path.removeprefix(inside),
                size if type(size) is int and 0 <= size < 2**63 else None,
                sha256 if SHA256.fullmatch(sha256 or "") else None,
                git_sha1=git_sha1 if COMMIT.fullmatch(git_sha1) else None,
            )
        )
    if ref.subfolder and not files:
        raise NotFound(f"{ref}: there is no folder {ref.subfolder} in {commit}", hint="check the spelling")
    return tuple(sorted(files, key=lambda file: file.path))


def _name_in(url: str, name: str) -> str:
    """The repository's name in the URL that answered in the end; ``name`` if it holds none."""
    pattern = r"/api/models/([\w.-]{1,96}(?:/[\w.-]{1,96})?)/revision/"
    found = re.search(pattern, unquote(urlsplit(url).path), re.ASCII)
    return found[1] if found and ".." not in found[1] else name


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
