"""Repositories on the Hugging Face Hub, or on any server with the same API. A revision is a commit."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lora_cli.errors import AccessDenied, Corrupt, LoraCliError, NotFound, Offline, Unreachable
from lora_cli.redaction import logger
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import RemoteFile, Revision
from lora_cli.refs.web_address import host
from lora_cli.settings import Settings
from lora_cli.sources import ONLINE, Source, at_most_10_000
from lora_cli.sources.http import Http, Piece, StatusError, TooLarge, get_bytes, get_json, next_query

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule

COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
TOKENS = ("HF_OIDC_RESOURCE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
CHUNK = 1 << 20

_MISSING = "there is no repository {name}, or it is private"
_NO_ACCESS = "it is gated, and the account of the token in {found_in} has no access"
_BAD_TOKEN = "{server} does not accept the token in {found_in}"  # noqa: S105 - not a token
_SPELLING = "check the spelling (a folder on this machine is ./NAME)"
_LOGIN = "set HF_TOKEN or run `hf auth login`"
_RENEW = "renew it with `hf auth login`, or unset it: a public repository needs no token"
_ANSWERS: tuple[tuple[str, type[LoraCliError], str, str], ...] = (
    ("Gated.* nobody", AccessDenied, "it is gated: request access first", f"accept its terms at {{page}}; {_LOGIN}"),
    ("Gated", AccessDenied, _NO_ACCESS, "request access at {page}, or use a token that can read gated repositories"),
    ("RevisionNotFound", NotFound, "{name} has no branch, tag or commit {revision!r}", "see {page}/tree/main"),
    ("EntryNotFound", NotFound, "there is no {path}", "see {page} for its contents"),
    ("(RepoNotFound|401).* nobody", AccessDenied, _MISSING, f"{_SPELLING}; if it is private, {_LOGIN}"),
    ("RepoNotFound", NotFound, _MISSING + " and the token in {found_in} cannot read it", _SPELLING),
    ("401", AccessDenied, _BAD_TOKEN, _RENEW),
    ("403|451", AccessDenied, "{server} denies access ({status}){detail}", "check the token's rights, and the proxy"),
    ("404|410", NotFound, "not found on {server} ({status}){detail}", "check the spelling, and HF_ENDPOINT"),
    ("416 file", Corrupt, "it is shorter than its listed size", "run the command again"),
    ("", Unreachable, "{server} answered {status}{detail}", "check HF_ENDPOINT, or try again later"),
)
"""What is in the Hub's code, status, "file" or "folder" and "nobody" (no token); what is raised, says, and is to try.

The codes and what they mean are those of ``huggingface_hub.utils.hf_raise_for_status``.
"""

log = logger(__name__)


class HubSource(Source):
    """The Hub as a source. A revision is a commit; sizes and digests are those that it lists.

    The token is sent to the endpoint only. At one that a rule names, only the rule's own ``token_env`` is used.
    """

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        super().__init__(settings, rule)
        self._endpoint = ((rule and rule.endpoint_url) or settings.hub_endpoint).rstrip("/")

    @cached_property
    def _http(self) -> Http:
        return Http.of(self._settings, self._endpoint, self._token[0])

    @cached_property
    def _token(self) -> tuple[str, str]:
        """The token, "" for none, and where it was found: by a rule, else as ``huggingface_hub`` finds the user's."""
        if self._rule is not None and (self._rule.endpoint_url or self._rule.token_env):
            return self._rule.token(), self._rule.token_env or ""
        from huggingface_hub import constants

        found_in = next((name for name in TOKENS if os.environ.get(name, "").strip()), constants.HF_TOKEN_PATH)
        # The library takes a fifth of a second to import: it is asked where there is something to find.
        if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN or not (found_in in TOKENS or Path(found_in).is_file()):
            return "", ""
        from huggingface_hub import get_token

        from lora_cli.documents.source_rules import checked_token

        try:
            token = get_token() or ""
        except Exception as error:  # whatever its HTTP client raises while it exchanges an OIDC token
            hint = "check HF_OIDC_RESOURCE and HF_OIDC_ID_TOKEN, or set HF_TOKEN"
            raise AccessDenied(f"cannot get a Hub token ({type(error).__name__})", hint=hint) from error
        return token and checked_token(token, found_in), found_in

    def _resolve(self, ref: AdapterRef) -> Revision:
        """One request, or one a page for a very large repository. One that was renamed is read under its new name."""
        if self._settings.offline:
            return _cached_revision(ref)
        url = f"{self._endpoint}/api/models/{quote(ref.location)}/revision/{quote(ref.revision or 'main', safe='')}"
        try:
            try:
                info, _ = get_json(self._http, f"{url}?blobs=true", str(ref))
            except TooLarge:
                info, _ = get_json(self._http, f"{url}?expand=sha", str(ref))
            name, commit, entries = str(info.get("id")), str(info["sha"]), info.get("siblings")
            name = name if NAME.fullmatch(name) else ref.location
            wanted = ref.revision if COMMIT.fullmatch(ref.revision or "") else commit
            if commit != wanted or not COMMIT.fullmatch(commit):
                raise Corrupt(f"{ref}: the server returned commit {commit}", hint="check HF_ENDPOINT")
            if not entries or any("size" not in one for one in entries):
                # Too many for one answer, or a mirror that ignores ``blobs``.
                entries = self._tree(ref, name, commit)
            files = _files(entries, ref, commit)
        except StatusError as error:
            raise self._refusal(error, ref, f"folder {ref.subfolder}") from error
        except (AttributeError, KeyError, TypeError) as error:
            raise Unreachable(f"{ref}: the server does not respond like a Hub", hint="check HF_ENDPOINT") from error
        if name != ref.location:
            log.warning("%s was renamed to %s; use hf://%s", ref, name, name)
        return Revision(replace(ref, location=name), commit, files)

    def _stream(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        ref, what = revision.ref, f"{revision.ref}: {file.path}"
        if self._settings.offline:
            with self.local_copy(revision, file) as descriptor:
                if descriptor is None:
                    raise Offline(f"{what} is not cached and offline mode is on", hint=ONLINE)
                end = os.fstat(descriptor).st_size if stop is None else stop
                while chunk := os.pread(descriptor, min(CHUNK, end - start), start):
                    start += len(chunk)
                    yield chunk
            return
        path = quote(f"{ref.subfolder}/{file.path}".lstrip("/"))
        url = f"{self._endpoint}/{quote(ref.location)}/resolve/{revision.id}/{path}"
        try:
            yield from get_bytes(self._http, url, Piece(start, stop, file.size), what)
        except StatusError as error:
            raise self._refusal(error, ref, f"file {file.path}") from error

    @contextmanager
    def local_copy(self, revision: Revision, file: RemoteFile) -> Iterator[int | None]:
        """A descriptor of the file as the Hub's own client has cached it, to be hashed; None when it has not."""
        blob = _cache_folder(revision.ref) / "blobs" / str(file.sha256 or file.git_sha1)
        try:
            cached = blob.open("rb", buffering=0)
        except OSError:
            yield None
            return
        with cached:
            fits = file.size in (None, os.fstat(cached.fileno()).st_size)
            if fits:
                log.info("%s: %s read from the cache of the Hub's own client", revision.ref, file.path)
            yield cached.fileno() if fits else None

    def _tree(self, ref: AdapterRef, name: str, commit: str) -> Iterator[Any]:
        """The entries below the folder of ``ref``, page by page."""
        url = f"{self._endpoint}/api/models/{quote(name)}/tree/{commit}/{quote(ref.subfolder)}".rstrip("/")
        query = "recursive=true&expand=false"
        while query:
            listed, headers = get_json(self._http, f"{url}?{query}", str(ref))
            yield from listed
            query = next_query(headers)

    def _refusal(self, error: StatusError, ref: AdapterRef, path: str) -> LoraCliError:
        """The Hub's refusal in words, with a hint; ``path`` is the file or folder that was asked for."""
        (token, found_in), said = self._token, error.headers.get("X-Error-Message", "")[:200]
        asker, code = "a user" if token else "nobody", error.headers.get("X-Error-Code")
        answer = f"{code} {error.status} {path.partition(' ')[0]} of {asker}"
        kind, reason, hint = next(row[1:] for row in _ANSWERS if re.search(row[0], answer))
        words = {
            "name": ref.location,
            "page": f"{self._endpoint}/{ref.location}",
            "revision": ref.revision or "main",
            "path": path,
            "found_in": found_in,
            "server": host(error.url),
            "status": error.status,
            "detail": said and f": {said}",
        }
        return kind(f"{ref}: {reason.format(**words)}", hint=hint.format(**words))


def _cache_folder(ref: AdapterRef) -> Path:
    """Where ``huggingface_hub`` caches a repository: ``refs``, ``snapshots``, and ``blobs`` named by their digests."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, "--".join(("models", *ref.location.split("/"))))


def _cached_revision(ref: AdapterRef) -> Revision:
    """What ``huggingface_hub`` has downloaded of ``ref``, which may not be all that there is; raises ``Offline``."""
    folder, commit = _cache_folder(ref), ref.revision or "main"
    if (branch := folder / "refs" / commit).is_file():
        commit = branch.read_text(errors="replace").strip()
    snapshot, entries = folder / "snapshots" / commit, []
    for path in sorted(snapshot.rglob("*")) if COMMIT.fullmatch(commit) else ():
        if path.is_symlink():
            digest, inside = path.readlink().name, path.relative_to(snapshot).as_posix()
            size = path.stat().st_size if path.exists() else None
            lfs = {"oid": digest} if SHA256.fullmatch(digest) else None
            entries.append({"path": inside, "size": size, "oid": digest, "lfs": lfs})
    if not entries:
        raise Offline(f"{ref} is not cached and offline mode is on", hint=ONLINE)
    return Revision(ref, commit, _files(entries, ref, commit), whole=False)


def _files(entries: Iterable[Any], ref: AdapterRef, commit: str) -> tuple[RemoteFile, ...]:
    """The listed files below the folder of ``ref``, as they come of ``?blobs=true`` or of the tree.

    Raises:
        Refused: there are over 10,000.
        NotFound: there is no such folder.
    """
    files, inside = list[RemoteFile](), f"{ref.subfolder}/" if ref.subfolder else ""
    paths = ((str(entry["rfilename"] if "rfilename" in entry else entry["path"]), entry) for entry in entries)
    below = ((path, entry) for path, entry in paths if path.startswith(inside) and entry.get("type") != "directory")
    for path, entry in at_most_10_000(below, str(ref)):
        # An LFS file has a sha256; its git blob is the pointer to it.
        lfs = entry.get("lfs") or {}
        size = lfs.get("size", entry.get("size"))
        sha256, git_sha1 = lfs.get("sha256", lfs.get("oid")), entry.get("blobId", entry.get("oid"))
        files.append(
            RemoteFile(
                path.removeprefix(inside),
                size if type(size) is int and 0 <= size < 2**63 else None,
                sha256 if SHA256.fullmatch(sha256 or "") else None,
                git_sha1=git_sha1 if not lfs and COMMIT.fullmatch(git_sha1 or "") else None,
            )
        )
    if ref.subfolder and not files:
        raise NotFound(f"{ref}: there is no folder {ref.subfolder} in {commit}", hint="check the spelling")
    return tuple(sorted(files, key=lambda file: file.path))
