"""The tree of a repository, as a server lists it, made into files. Nothing in it is trusted."""

import re
from collections.abc import Iterable
from typing import Any

from lora_cli.core.snapshot import RemoteFile
from lora_cli.errors import Unreachable
from lora_cli.sources.listed import check_listed, check_path


def files_of(entries: Iterable[Any], what: str, folder: str, locator: str) -> tuple[RemoteFile, ...]:
    """The files below ``folder``, their paths relative to it; ``what`` begins the message of an error.

    ``locator`` is the quoted place of the commit at the endpoint. An LFS file has a ``sha256`` and any other file a
    ``git_sha1``, where the server lists them in their form; a mirror that leaves out sizes or digests gives None.

    Raises:
        Refused: a path is absolute, leads out of the adapter, stands there twice, is a folder and a file at once, or
            holds what no file system or log should see.
        Unreachable: an entry is none.
    """
    return in_order([file for entry in entries if (file := file_of(entry, what, folder, locator)) is not None], what)


def file_of(entry: Any, what: str, folder: str, locator: str) -> RemoteFile | None:
    """The file that an entry is; None for a folder, and for what lies elsewhere. Raises as ``files_of``."""
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise Unreachable(f"{what}: the server sent no listing", hint="check HF_ENDPOINT")
    path, inside = entry["path"], f"{folder}/" if folder else ""
    if entry.get("type") != "file":
        return None
    check_path(path, what)
    return _file(entry, path.removeprefix(inside), locator) if path.startswith(inside) else None


def in_order(files: "list[RemoteFile]", what: str) -> tuple[RemoteFile, ...]:
    """The files of a listing, each once; raises as ``files_of``."""
    check_listed((file.path for file in files), what)
    return tuple(sorted(files, key=lambda file: file.path))


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
