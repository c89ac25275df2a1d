"""What the test Hub answers: each route is a function from a request to a reply."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlencode

from tests.hub_content import Commit, Entry, Repo

if TYPE_CHECKING:
    from tests.hub_server import Hub


@dataclass(frozen=True, slots=True)
class Request:
    """What came in; ``path`` is still quoted, ``range`` is the header's text."""

    origin: str
    path: str
    query: dict[str, str]
    authorization: str
    range: str

    @property
    def token(self) -> str:
        """The bearer token, or nothing."""
        return self.authorization.removeprefix("Bearer ")


@dataclass(slots=True)
class Reply:
    """What goes out: ``stop - start`` bytes of ``content``."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | Path = b""
    start: int = 0
    stop: int | None = None

    @property
    def length(self) -> int:
        """Bytes of the body."""
        if self.stop is None:
            self.stop = self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)
        return self.stop - self.start


def answer(hub: "Hub", request: Request) -> Reply:
    """The reply to any request, on either origin."""
    if request.origin == "cdn":
        return _storage(hub, request)
    if request.token and request.token not in hub.tokens:
        return _error(401, "", "Invalid credentials in Authorization header")
    if found := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+)(?:/(.*))?)?", request.path):
        id, what, revision, folder = found.groups("")
        return _api(hub, request, unquote(id), what, unquote(revision or "main"), unquote(folder))
    if found := re.fullmatch(r"(?:/api/resolve-cache/models)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", request.path):
        id, revision, path = (unquote(part) for part in found.groups())
        return _file(hub, request, id, revision, path)
    return _error(404, "", "Sorry, we can't find the page you are looking for.")


def _error(status: int, code: str, message: str, **more: str) -> Reply:
    headers = {"X-Error-Code": code} if code else {}
    body = json.dumps({"error": message}).encode()
    return Reply(status, {**headers, "X-Error-Message": message, "Content-Type": "application/json", **more}, body)


def _json(value: Any, **headers: str) -> Reply:
    return Reply(200, {"Content-Type": "application/json; charset=utf-8", **headers}, json.dumps(value).encode())


def _find(hub: "Hub", request: Request, id: str) -> Repo | Reply:
    """The repository, or the reply that it moved, is not there, or is not for this caller."""
    if id in hub.renamed:
        target = request.path.replace(quote(id), quote(hub.renamed[id]), 1)
        target += f"?{urlencode(request.query)}" if request.query else ""
        return Reply(307, {"Location": target})
    repo = hub.repos.get(id)
    if repo is None or (repo.private and id not in hub.tokens.get(request.token, ())):
        return _error(404 if request.token else 401, "RepoNotFound", "Repository not found")
    return repo


def _api(hub: "Hub", request: Request, id: str, what: str, revision: str, folder: str) -> Reply:
    repo = _find(hub, request, id)
    if isinstance(repo, Reply):
        return repo
    commit = repo.commit_at(revision)
    if commit is None:
        return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return _tree(hub, request, commit, folder) if what == "tree" else _info(hub, request, repo, commit)


def _info(hub: "Hub", request: Request, repo: Repo, commit: Commit) -> Reply:
    """The description of a repository: with sizes and digests of its files, as names alone, or only its commit."""
    if request.query.get("expand") == "sha":
        return _json({"_id": commit.id[:24], "id": repo.id, "sha": commit.id})
    has_blobs = request.query.get("blobs", "").lower() in ("true", "1") and not hub.bare
    files = [file for _, file in sorted(commit.files.items())]
    siblings = [file.sibling() if has_blobs else {"rfilename": file.path} for file in files]
    gated = "auto" if repo.gated else False
    return _json(
        {"id": repo.id, "modelId": repo.id, "sha": commit.id, "private": repo.private, "gated": gated, "tags": [],
         "disabled": False, "siblings": siblings}
    )  # fmt: skip


def _tree(hub: "Hub", request: Request, commit: Commit, folder: str) -> Reply:
    """A page of a listing, and a link to the next one."""
    listing = commit.listing(folder)
    if folder and not listing:
        return _error(404, "EntryNotFound", f"{folder} does not exist on {commit.id}")
    for shown in listing if hub.bare else ():
        shown.update({"size": None, "oid": None, "lfs": None})
    start = int(request.query.get("cursor") or 0)
    stop = start + hub.page_size
    if stop >= len(listing):
        return _json(listing[start:stop])
    following = urlencode({**request.query, "cursor": stop})
    return _json(listing[start:stop], Link=f'<{hub.endpoint}{request.path}?{following}>; rel="next"')


def _file(hub: "Hub", request: Request, id: str, revision: str, path: str) -> Reply:
    repo = _find(hub, request, id)
    if isinstance(repo, Reply):
        return repo
    if repo.gated and id not in hub.tokens.get(request.token, ()):
        return _error(403 if request.token else 401, "GatedRepo", f"Access to model {id} is restricted.")
    commit = repo.commit_at(revision)
    if commit is None:
        return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    entry = commit.files.get(path)
    named = {"X-Repo-Commit": commit.id}
    if entry is None:
        return _error(404, "EntryNotFound", "Entry not found", **named)
    if hub.bare:
        return _in_range(request, entry, {})
    if entry.lfs:
        linked = {"X-Linked-Size": str(entry.size), "X-Linked-Etag": f'"{entry.sha256}"'}
        location = f"{hub.cdn}/lfs/{entry.sha256}?sig={hub.signature(entry.sha256)}"
        return Reply(302, {**named, **linked, "Location": location})
    if hub.small_files_by_redirect and not request.path.startswith("/api/resolve-cache/"):
        location = f"/api/resolve-cache/models/{quote(id)}/resolve/{commit.id}/{quote(path)}"
        return Reply(307, {**named, "X-Linked-Size": str(entry.size), "ETag": f'"{entry.oid}"', "Location": location})
    return _in_range(request, entry, {**named, "ETag": f'"{entry.oid}"'})


def _storage(hub: "Hub", request: Request) -> Reply:
    """The second origin: like a bucket behind a signed link, it takes one proof of identity and no other."""
    sha256 = request.path.removeprefix("/lfs/")
    if request.authorization:
        return Reply(400, content=b"<Error><Code>InvalidArgument</Code></Error>")
    if request.query.get("sig") != hub.signature(sha256):
        return Reply(403, content=b"<Error><Code>AccessDenied</Code></Error>")
    return _in_range(request, hub.blobs[sha256], {"ETag": f'"{sha256[:32]}"'})


def _in_range(request: Request, entry: Entry, headers: dict[str, str]) -> Reply:
    """The whole file (200), a range of it (206), or that there is no such range (416)."""
    headers = {**headers, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.range)
    if asked is None:
        return Reply(200, headers, entry.content, 0, entry.size)
    start, stop = int(asked[1]), min(int(asked[2] or entry.size) + 1, entry.size)
    if start >= stop:
        return Reply(416, {**headers, "Content-Range": f"bytes */{entry.size}"})
    shown = f"bytes {start}-{stop - 1}/{entry.size}"
    return Reply(206, {**headers, "Content-Range": shown}, entry.content, start, stop)
