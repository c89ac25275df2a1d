"""What the test Hub answers: each route is a function from a request to a reply."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from tests.hub_content import Commit, Entry, Repo

if TYPE_CHECKING:
    from tests.hub_server import Hub


@dataclass(frozen=True, slots=True)
class Request:
    """What came in; ``path`` is still quoted, ``range`` is the header's text."""

    method: str
    origin: str
    path: str
    query: dict[str, str]
    authorization: str
    range: str
    body: bytes

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

    def read(self, offset: int, size: int) -> bytes:
        """A piece of the content."""
        if isinstance(self.content, bytes):
            return self.content[offset : offset + size]
        with self.content.open("rb") as file:
            file.seek(offset)
            return file.read(size)


def answer(hub: "Hub", request: Request) -> Reply:
    """The reply to any request, on either origin."""
    if request.path.startswith("/_control/"):
        return control(hub, request.path.removeprefix("/_control/"), request.body)
    if request.origin == "cdn":
        return _storage(hub, request)
    if request.token and request.token not in hub.tokens:
        return _error(401, "", "Invalid credentials in Authorization header")
    if found := re.fullmatch(
        r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree|refs|paths-info)(?:/([^/]+)(?:/(.*))?)?)?",
        request.path,
    ):
        id, what, revision, folder = found.groups()
        return _api(hub, request, unquote(id), what or "revision", unquote(revision or "main"), unquote(folder or ""))
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
        new, status = hub.renamed[id]
        target = request.path.replace(quote(id), quote(new), 1)
        target += f"?{urlencode(request.query)}" if request.query else ""
        return Reply(status, {"Location": target})
    repo = hub.repos.get(id)
    if repo is None or (repo.private and id not in hub.tokens.get(request.token, ())):
        return _error(404 if request.token else 401, "RepoNotFound", "Repository not found")
    return repo


def _api(hub: "Hub", request: Request, id: str, what: str, revision: str, folder: str) -> Reply:
    repo = _find(hub, request, id)
    if isinstance(repo, Reply):
        return repo
    if what == "refs":
        refs = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in sorted(repo.branches.items())]
        return _json({"branches": refs, "converts": [], "tags": []})
    commit = repo.commit_at(revision)
    if commit is None:
        return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    if what == "paths-info":
        return _json(_shown(hub, [entry for entry in commit.listing() if entry["path"] in _paths(request.body)]))
    return _info(hub, request, repo, commit) if what == "revision" else _tree(hub, request, commit, folder)


def _paths(body: bytes) -> list[str]:
    """The paths that a form or a JSON object asks for."""
    try:
        return list(json.loads(body)["paths"])
    except ValueError:
        return [path for name, path in parse_qsl(body.decode()) if name == "paths"]


def _shown(hub: "Hub", listing: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries as this Hub shows them: with what it knows of Xet storage, or with next to nothing."""
    for shown in listing:
        if (lfs := shown.get("lfs")) and lfs["oid"] in hub.xet:
            shown["xetHash"] = hub.xet[lfs["oid"]]
        if hub.bare:
            shown.update({"size": None, "oid": None, "lfs": None})
    return listing


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
    recursive = request.query.get("recursive", "").lower() in ("true", "1")
    listing = _shown(hub, commit.listing(folder, recursive=recursive))
    if folder and not listing:
        return _error(404, "EntryNotFound", f"{folder} does not exist on {commit.id}")
    return _page(hub, request, listing)


def _page(hub: "Hub", request: Request, listing: list[dict[str, Any]]) -> Reply:
    """A page of a listing, and a link to the next one."""
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
        return _bytes(request, entry, {})
    if entry.lfs:
        linked = {"X-Linked-Size": str(entry.size), "X-Linked-Etag": f'"{entry.sha256}"'}
        if entry.sha256 in hub.xet:
            token = f"{hub.endpoint}/api/models/{quote(id)}/xet-read-token/{commit.id}"
            linked |= {"X-Xet-Hash": hub.xet[entry.sha256], "Link": f'<{token}>; rel="xet-auth"'}
        location = f"{hub.cdn}/lfs/{entry.sha256}?sig={hub.signature(entry.sha256)}"
        return Reply(302, {**named, **linked, "Location": location})
    if hub.small_files_by_redirect and not request.path.startswith("/api/resolve-cache/"):
        location = f"/api/resolve-cache/models/{quote(id)}/resolve/{commit.id}/{quote(path)}"
        return Reply(307, {**named, "X-Linked-Size": str(entry.size), "ETag": f'"{entry.oid}"', "Location": location})
    return _bytes(request, entry, {**named, "ETag": f'"{entry.oid}"'})


def _storage(hub: "Hub", request: Request) -> Reply:
    """The second origin: like a bucket behind a signed link, it takes one proof of identity and no other."""
    sha256 = request.path.removeprefix("/lfs/")
    if request.authorization:
        return Reply(400, {"Content-Type": "application/xml"}, b"<Error><Code>InvalidArgument</Code></Error>")
    if request.query.get("sig") != hub.signature(sha256):
        return Reply(403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>")
    entry = hub.blobs.get(sha256)
    if entry is None:
        return Reply(404, {"Content-Type": "application/xml"}, b"<Error><Code>NoSuchKey</Code></Error>")
    return _bytes(request, entry, {"ETag": f'"{sha256[:32]}"'})


def _bytes(request: Request, entry: Entry, headers: dict[str, str]) -> Reply:
    return in_range(request, entry.content, headers, entry.size)


def in_range(request: Request, content: bytes | Path, headers: dict[str, str], size: int = -1) -> Reply:
    """The whole file (200), a range of it (206), or that there is no such range (416)."""
    size = len(content) if isinstance(content, bytes) else size
    headers = {**headers, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.range)
    if asked is None or asked.groups() == ("", ""):
        return Reply(200, headers, content, 0, size)
    first, last = asked.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1, size) if first and last else size
    if start >= size or start >= stop:
        return Reply(416, {**headers, "Content-Range": f"bytes */{size}"})
    shown = f"bytes {start}-{stop - 1}/{size}"
    return Reply(206, {**headers, "Content-Range": shown}, content, start, stop)


def control(hub: "Hub", name: str, body: bytes) -> Reply:
    """The log and the faults, for whoever runs the Hub in another process."""
    if name == "faults":
        hub.fault(**json.loads(body))
    found = [asdict(request) for request in hub.requests] if name == "requests" else []
    return Reply(200, {"Content-Type": "application/json"}, json.dumps(found).encode())
