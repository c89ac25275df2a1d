"""The tree of a repository, as a server lists it, made into files. Nothing in it is trusted."""

import re
from collections.abc import Iterable
from typing import Any
from unicodedata import category
from urllib.parse import quote

from lora_cli.core.snapshot import RemoteFile
from lora_cli.errors import Refused, Unreachable

MOST_ENTRIES = 10_000
LONGEST_PATH = 1024
LONGEST_NAME = 255
# Control characters, surrogates, separators of lines and paragraphs; and what makes a text run the other way.
_UNFIT = frozenset({"Cc", "Cs", "Zl", "Zp"})
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def files_of(entries: Iterable[Any], what: str, folder: str, locator: str) -> tuple[RemoteFile, ...]:
    """The files below ``folder``, their paths relative to it; ``what`` begins the message of an error.

    ``locator`` is the quoted place of the commit at the endpoint. An LFS file has a ``sha256`` and any other file a
    ``git_sha1``, where the server lists them in their form; a mirror that leaves out sizes or digests gives None.

    Raises:
        Refused: a path is absolute, leads out of the adapter, stands there twice, is a folder and a file at once, or
            holds what no file system or log should see.
        Unreachable: an entry is none.
    """
    inside = f"{folder}/" if folder else ""
    files: dict[str, RemoteFile] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            raise Unreachable(f"{what}: the server sent no listing", hint="check HF_ENDPOINT")
        path = entry["path"]
        if entry.get("type") != "file":
            continue
        wrong = _wrong_with(path) or ("is listed twice" if path in files else "")
        if wrong:
            raise _refused(what, path, wrong)
        files[path] = _file(entry, path.removeprefix(inside), f"{locator}/{quote(path, safe='/')}")
    folders = {path[: found.start()] for path in files for found in re.finditer("/", path)}
    for path in folders & files.keys():
        raise _refused(what, path, "is a file and a folder at once")
    return tuple(file for path, file in sorted(files.items()) if path.startswith(inside))


def _refused(what: str, path: str, wrong: str) -> Refused:
    shown = ascii(path) if len(path) <= 200 else ascii(path[:200]) + "…"
    hint = "nothing of it was read; whoever keeps the repository or the mirror must mend that"
    return Refused(f"{what}: the listed path {shown} {wrong}", hint=hint)


def _wrong_with(path: str) -> str:
    """What makes a path unfit to be written below a folder, or nothing."""
    parts = path.split("/")
    size = len(path.encode(errors="surrogatepass"))
    longest = max(len(part.encode(errors="surrogatepass")) for part in parts)
    faults = (
        (path.startswith("/"), "is absolute"),
        (".." in parts, "leads out of the adapter"),
        (not {"", "."}.isdisjoint(parts), "has an empty part"),
        ("\\" in path, "holds a backslash"),
        (size > LONGEST_PATH or longest > LONGEST_NAME, "is too long"),
        (any(character in _BIDI or category(character) in _UNFIT for character in path), "holds control characters"),
    )
    return next((fault for there, fault in faults if there), "")


def _file(entry: dict[str, Any], path: str, locator: str) -> RemoteFile:
    lfs = entry.get("lfs")
    if not isinstance(lfs, dict):
        return RemoteFile(path, _size(entry.get("size")), git_sha1=_digest(entry.get("oid"), 40), locator=locator)
    size = _size(lfs.get("size"))
    oid = lfs.get("oid", lfs.get("sha256"))
    return RemoteFile(path, _size(entry.get("size")) if size is None else size, _digest(oid, 64), locator=locator)


def _size(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def _digest(value: Any, digits: int) -> str | None:
    text = value.removeprefix("sha256:") if isinstance(value, str) else ""
    return text if re.fullmatch(rf"[0-9a-f]{{{digits}}}", text) else None
