"""The places of findings for tools that open files: annotations and code scanning."""

import os
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from lora_cli.adapter.config import CONFIG_CAP
from lora_cli.finding import Location
from lora_cli.judging.result import Naming, Result, below, inside, unpinned


@dataclass(frozen=True, slots=True)
class Place:
    """The location of a finding for tools that open files: ``below`` the report's folder, ``elsewhere``, or remote.

    A remote ``path`` is the reference with its scheme as the first folder. ``line`` is 0 if it is unknown.
    """

    path: str
    kind: Literal["below", "elsewhere", "remote"]
    line: int = 0


def place_of(naming: Naming, one: Result, at: Location) -> Place:
    """The place of ``at`` of an adapter: its file if it is below ``root``, else the manifest's line."""
    root = naming.root or naming.directory
    folder, file = inside(one.source, root), at.file
    if folder is not None:
        path = _joined(folder, file)
        return Place(path, "below", _line_of(root / path, at.field) if file.endswith(".json") else 0)
    manifest, _, line = naming.manifest.get(one.name, "").rpartition(":")
    if manifest and (at_root := below(str(naming.directory / manifest), root)) is not None:
        return Place(at_root, "below", int(line))
    scheme, _, address = unpinned(one.source).rpartition("://")
    if scheme == "file":
        return Place(_joined(unquote(address), file), "elsewhere")
    return Place(_joined(posixpath.join(scheme, address), file), "remote")


def _line_of(path: Path, field: str) -> int:
    """The line of a JSON file with the first name of ``field`` as a key; 1 if there is none."""
    key = re.match(r"\w*", field)
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            text = stream.read(CONFIG_CAP) or b""
    except OSError:
        return 1
    found = re.search(rb'"%b"\s*:' % key[0].encode(), text) if key and key[0] else None
    return text.count(b"\n", 0, found.start()) + 1 if found else 1


def _joined(folder: str, file: str) -> str:
    """A file's path; for one that leads out of its folder, the folder."""
    inner = posixpath.normpath(posixpath.join("/", file)).lstrip("/")
    return folder if inner != posixpath.normpath(file) else posixpath.normpath(posixpath.join(folder, inner))
