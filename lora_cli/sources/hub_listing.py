"""The listing of a repository of the Hub, converted to files. Nothing in it is trusted."""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lora_cli.core.snapshot import RemoteFile
from lora_cli.errors import Refused, Unreachable
from lora_cli.sources.http import Http, next_query
from lora_cli.sources.http_json import NoList, get_body, iter_array
from lora_cli.sources.listed_paths import ListingBudget, check_listed, check_path

MOST_PAGES = 200
PAGE_CAP = 16 * 1024 * 1024
"""How many bytes a page of a listing has at most; a mirror may send all 10 000 entries in one."""

LISTING_S = 60.0
"""After so many seconds no other page of a listing is asked for."""

_NO_LISTING = "the server sent no listing: it does not respond like a Hub"


def listed(
    http: Http,
    url: str,
    query: str,
    what: str,
    file_of: Callable[[Any, str], RemoteFile | None],
    *,
    hint: str,
) -> tuple[str, list[RemoteFile]]:
    """The URL that answered in the end, and the files that ``file_of`` makes of the entries and that URL.

    It is read entry by entry: however much a server lists, little of it is in memory. Each page is asked of ``url``
    itself: of the link to the next one only the query is used, so that no other server is sent the token.

    Raises:
        StatusError: the server refuses.
        Refused: a page has over ``PAGE_CAP`` bytes, or there are too many entries or pages, or they take too long;
            ``hint`` says what to name instead.
        Unreachable: network or server, after the retries, or something that is no listing.
    """
    files, budget, until = list[RemoteFile](), ListingBudget(what, hint), time.monotonic() + LISTING_S

    def read(body: Iterator[bytes], answered: str) -> tuple[list[RemoteFile], ListingBudget]:
        found, left = list[RemoteFile](), budget.copy()
        for entry in iter_array(body):
            if (file := file_of(entry, answered)) is not None:
                found.append(file)
            left.take(*((file.path,) if file is not None else ()))
        return found, left

    for _ in range(MOST_PAGES):
        try:
            answer = get_body(http, f"{url}?{query}", what, read, PAGE_CAP)
        except NoList as error:
            raise Unreachable(f"{what}: {_NO_LISTING}", hint="check HF_ENDPOINT") from error
        found, budget = answer.value
        files += found
        query = next_query(answer.headers)
        if not query:
            return answer.url, files
        if time.monotonic() > until:
            break
    message = f"{what}: its listing has over {MOST_PAGES} pages, or takes over {LISTING_S:.0f} s"
    raise Refused(message, hint=hint)


def files_of(entries: Iterable[Any], what: str, folder: str) -> tuple[RemoteFile, ...]:
    """The files below ``folder``, their paths relative to it; ``what`` begins the message of an error.

    An LFS file has a ``sha256`` and any other file a ``git_sha1``, where the server lists them in their form; a mirror
    that leaves out sizes or digests gives None.

    Raises:
        Refused: a path is absolute, leads out of the adapter, appears twice, is a folder and a file at once, or holds
            what no file system or log should see.
        Unreachable: an entry is malformed.
    """
    return in_order([file for entry in entries if (file := file_of(entry, what, folder)) is not None], what)


def file_of(entry: Any, what: str, folder: str, locator: str = "") -> RemoteFile | None:
    """The file that an entry is; None for a folder, and for what is elsewhere. Raises as ``files_of``.

    ``locator`` is the quoted place of the commit at the endpoint.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise Unreachable(f"{what}: {_NO_LISTING}", hint="check HF_ENDPOINT")
    path, inside = entry["path"], f"{folder}/" if folder else ""
    if entry.get("type") != "file":
        return None
    check_path(path, what)
    if not path.startswith(inside):
        return None
    path, lfs = path.removeprefix(inside), entry.get("lfs")
    if not isinstance(lfs, dict):
        return RemoteFile(path, size_in(entry), git_sha1=_digest(entry.get("oid"), 40), locator=locator)
    size = size_in(lfs)
    oid = lfs.get("oid", lfs.get("sha256"))
    return RemoteFile(path, size_in(entry) if size is None else size, _digest(oid, 64), locator=locator)


def in_order(files: "list[RemoteFile]", what: str) -> tuple[RemoteFile, ...]:
    """The files of a listing, each once; raises as ``files_of``."""
    check_listed((file.path for file in files), what)
    return tuple(sorted(files, key=lambda file: file.path))


def size_in(entry: dict[str, Any]) -> int | None:
    """The size that an entry has, None if that is none."""
    value = entry.get("size")
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def _digest(value: Any, digits: int) -> str | None:
    text = value.removeprefix("sha256:") if isinstance(value, str) else ""
    return text if re.fullmatch(rf"[0-9a-f]{{{digits}}}", text) else None
