"""``AdapterRef``: a reference to an adapter in one canonical form, however a user wrote it."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from lora_cli.did_you_mean import did_you_mean
from lora_cli.errors import UsageError
from lora_cli.refs import addresses

Scheme = Literal["file", "hf", "s3", "gs", "az", "https", "http", "oci", "fsspec"]

FSSPEC: Literal["fsspec"] = "fsspec"
BY_FSSPEC = frozenset({
    *("s3", "gcs", "gs", "abfs", "az", "adl", "box", "dropbox", "gdrive", "oci", "tosfs", "webdav"),
    *("dbfs", "hdfs", "lakefs", "oss", "sftp", "smb", "ssh", "tos"),
})  # fmt: skip
"""The protocols of ``fsspec+PROTOCOL://``. What reads this machine, an archive, an address of the web or another file
system through a cache is not among them, and neither is what cannot read a range (FTP)."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
ALIASES: Mapping[str, Scheme] = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}

WITH_REVISIONS = frozenset({"hf", "oci"})
"""The schemes whose references may name a revision behind an ``@``, and a folder."""

LATEST_FOLDER = "checkpoint-latest"
"""The last folder in the text of a reference to the latest checkpoint of a training run."""

_NUMBER = r"\d{1,18}"
CHECKPOINT = re.compile(rf"checkpoint-({_NUMBER})", re.ASCII)
"""The folder name of a checkpoint that transformers' Trainer writes."""


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """A reference to one adapter.

    ``location`` is by ``scheme``: an absolute path (``file``), ``org/name`` (``hf``), ``bucket/key`` (``s3``, ``gs``),
    ``container[@account.dfs.core.windows.net]/path`` (``az``), ``host/path`` as in the URL (``https`` and ``http``),
    ``registry/name[:tag]`` (``oci``), the URL without ``fsspec+`` (``fsspec``). ``subfolder`` (POSIX, relative) is only
    for ``hf`` and ``oci``: elsewhere a folder is part of the location. ``revision`` is a branch, tag or commit for
    ``hf`` and a digest for ``oci``; None is the origin's default. ``str()`` is canonical: ``parse(str(ref)) == ref``.
    """

    scheme: Scheme
    location: str
    subfolder: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        if self.scheme == "file":
            return "file://" + quote(self.location, errors="surrogateescape")
        text = f"fsspec+{self.location}" if self.scheme == FSSPEC else f"{self.prefix}{self.location}"
        if self.subfolder:
            text += ("//" if self.scheme == "oci" else "/") + self.subfolder.replace("%", "%25").replace("@", "%40")
        return text if self.revision is None else f"{text}@{self.revision.replace('%', '%25')}"

    @property
    def prefix(self) -> str:
        """The prefix of references of its kind: ``s3://``, ``fsspec+s3://``."""
        if self.scheme == FSSPEC:
            return f"fsspec+{self.location.partition('://')[0]}://"
        return f"{self.scheme}://"

    @property
    def pinned(self) -> bool:
        """Whether it can only ever mean one thing: a Hub commit or an OCI digest."""
        commit = self.revision is not None and re.fullmatch(r"[0-9a-f]{40}", self.revision)
        return bool(commit) if self.scheme == "hf" else self.scheme == "oci" and self.revision is not None

    @property
    def in_records(self) -> str:
        """The reference as the cache records it: a tag beside a digest, which says nothing, is left out."""
        if self.scheme != "oci" or self.revision is None:
            return str(self)
        folder, slash, name = self.location.rpartition("/")
        return str(replace(self, location=f"{folder}{slash}{name.partition(':')[0]}"))

    @property
    def name(self) -> str:
        """A short name for people: the last part of the subfolder or location, without a tag."""
        last = (self.subfolder or self.location).rpartition("/")[2] or self.location
        return last.partition(":")[0] if self.scheme == "oci" and not self.subfolder else last


_CACHED = re.compile(r"(?:^|[/\\])models--([^/\\]+)[/\\]snapshots[/\\]([0-9a-f]{40})(?:[/\\]|$)")


def cached_repository(path: str) -> tuple[str, str] | None:
    """The repository (``org/name``) and commit of a snapshot in huggingface_hub's cache; None of any other path."""
    found = _CACHED.search(path)
    return (found[1].replace("--", "/", 1), found[2]) if found else None


def repository_of(ref: AdapterRef) -> str:
    """The Hub's name of a repository (``org/name``), also of a folder in huggingface_hub's cache; "" of any other."""
    cached = cached_repository(ref.location) if ref.scheme == "file" else None
    return cached[0] if cached is not None else ref.location if ref.scheme == "hf" else ""


def is_path(text: str, base_dir: Path | None = None) -> bool:
    """Whether ``text`` is a path, and not ORG/NAME of the Hub, seen from ``base_dir`` (None: the working directory).

    It is one if it exists (a dangling link does, too), and if the folder exists that it would be in: a folder that was
    removed or misspelt is not looked for on the Hub, where somebody else may have a repository of that name.
    """
    if "\0" in text:
        return False
    path = (base_dir or Path()) / text
    in_folder = text.count("/") == 1 and "@" not in text and os.path.isdir(path.parent)  # noqa: PTH112 - never raises
    return os.path.lexists(path) or in_folder


def parse(text: str, *, is_path: Callable[[str], bool], base_dir: Path | None = None) -> AdapterRef:
    """The reference that ``text`` is, in any of the ways that users write one.

    A scheme decides (``hf://org/name/sub/folder@rev``, ``s3://``, ``gs://``,
    ``az://`` or ``abfss://``, ``file://``, ``https://``, ``oci://``; a page of ``https://huggingface.co`` is ``hf://``;
    ``http://`` only for this machine). Without one, ``/``, ``./``, ``../`` and ``~`` begin a path; what ``is_path``
    says exists is a path; ``org/name[@rev]`` and ``org/name/sub/folder@rev`` are on the Hub; other words with two or
    more slashes are a path that does not exist. Nothing is looked up but by ``is_path``, which is asked for ``text`` as
    it is. Relative paths are relative to ``base_dir`` (None: the working directory).

    Raises:
        UsageError: it is none of these.
    """
    addresses.check_characters(text)
    addresses.check_no_token(text, is_path)
    if scheme := _SCHEME.match(text):
        return _with_scheme(scheme.group(1).lower(), text[scheme.end() :], addresses.without_secrets(text))
    if text in {".", ".."} or text.startswith(("/", "./", "../")) or is_path(text):
        return _path(text, base_dir)
    if text.startswith("~"):
        return _path(_home(text), base_dir)
    addresses.check_encodable(text)
    if text.partition("/")[0].lower() in addresses.HUB_HOSTS:
        return AdapterRef("hf", *addresses.hub_page(text, text))
    if addresses.hub_words(text):
        return AdapterRef("hf", *addresses.hub(text, text))
    if text.strip("/").count("/") > 1:
        return _path(text, base_dir)
    shown = addresses.without_secrets(text)
    raise UsageError(f"{shown!r} is neither an existing path nor a repository on the Hub", hint=addresses.HINT)


def below(ref: AdapterRef, subfolder: str) -> AdapterRef:
    """``ref`` at a folder inside it; itself for an empty one.

    Raises:
        UsageError: the folder leads out of it.
    """
    addresses.check_no_token(subfolder, lambda _: False)
    folder = addresses.subfolder(subfolder, f"folder {subfolder}")
    if not folder:
        return ref
    if ref.scheme in WITH_REVISIONS:
        if ref.scheme == "hf":
            addresses.check_owner(ref.location, folder, str(ref))
        return replace(ref, subfolder=f"{ref.subfolder}/{folder}".lstrip("/"))
    added = addresses.web_folder(folder) if ref.scheme in {"https", "http"} else folder
    return replace(ref, location=f"{ref.location.rstrip('/')}/{added}")


def _with_scheme(scheme: str, rest: str, text: str) -> AdapterRef:
    if scheme == "file":
        return _path(addresses.file_url(rest, text), None)
    addresses.check_encodable(rest)
    addresses.check_nobody(rest, text)
    if scheme.startswith("fsspec+"):
        return _by_fsspec(scheme.removeprefix("fsspec+"), rest, text)
    if addresses.is_hub_page(rest, scheme):
        return AdapterRef("hf", *addresses.hub_page(rest, text))
    if scheme in {"hf", "oci"}:
        parts = addresses.hub(rest, text) if scheme == "hf" else addresses.oci(rest, text)
        return AdapterRef("hf" if scheme == "hf" else "oci", *parts)
    forms: Mapping[Scheme, Callable[[str, str], str]] = {
        "s3": addresses.bucket,
        "gs": addresses.bucket,
        "az": addresses.azure,
        "https": addresses.web,
        "http": addresses.plain_web,
    }
    for name, form in forms.items():
        if ALIASES.get(scheme, scheme) == name:
            return AdapterRef(name, form(rest, text))
    if scheme in BY_FSSPEC:
        hint = f"write fsspec+{scheme}://"
    else:
        hint = did_you_mean(f"{scheme}://", [f"{name}://" for name in ("file", "hf", "oci", *forms)])
    raise UsageError(f"{text}: unsupported scheme {scheme}://", hint=hint)


def _by_fsspec(protocol: str, rest: str, text: str) -> AdapterRef:
    """``fsspec+PROTOCOL://…``."""
    if protocol not in BY_FSSPEC:
        known = ", ".join(f"fsspec+{name}://" for name in sorted(BY_FSSPEC))
        raise UsageError(
            f"{addresses.without_secrets(text)}: unsupported scheme fsspec+{protocol}://", hint=f"supported: {known}"
        )
    return AdapterRef(FSSPEC, f"{protocol}://{addresses.remote(rest, text)}")


def _path(text: str, base_dir: Path | None) -> AdapterRef:
    """Made absolute without following links: ``..`` stays, because behind a link it means something else."""
    path = (base_dir or Path()).absolute() / text
    return AdapterRef("file", "/" + str(path).lstrip("/"))


def _home(text: str) -> str:
    try:
        return str(Path(text).expanduser())
    except RuntimeError as error:
        raise UsageError(f"{text}: the home folder does not exist", hint=f"write ./{text} for a file here") from error


def training_run(text: str) -> str:
    """The reference to the training run of whose latest checkpoint ``text`` speaks; "" if it speaks of none."""
    found = re.fullmatch(rf"(.+?)/+{LATEST_FOLDER}/?(@.*)?", text, re.DOTALL)
    return f"{found[1]}{found[2] or ''}" if found else ""
