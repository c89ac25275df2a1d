"""Folders over remote protocols that fsspec reads: ``fsspec+PROTOCOL://``."""

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lora_cli.core.reference import FSSPEC, AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.daemon_threads import run_in_thread
from lora_cli.errors import AccessDenied, Changed, Corrupt, LoraCliError, NotFound, UsageError
from lora_cli.redaction import is_secret, remember
from lora_cli.settings import Settings, home_of
from lora_cli.sources.http import AGAIN
from lora_cli.sources.listed_paths import ListingBudget, check_listed
from lora_cli.sources.retries import Retries, Transient, is_unknown_host, printable
from lora_cli.sources.tokens import secret_in

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule

CHUNK = 1 << 20
# Fields that identify a version of a file: the first that a file system has counts.
_VERSIONS = (
    *("ETag", "etag", "e_tag", "content_md5", "md5", "mtime", "modified", "last_modified", "LastModified"),
    *("updated", "modify", "last_write_time"),
)
_SETTINGS = "set it in ~/.config/fsspec/conf.json or as FSSPEC_{}_…: see fsspec's documentation of this protocol"
_BY_KEY = frozenset({"sftp", "ssh"})
"""The protocols whose hosts the user vouches for in ``~/.ssh/known_hosts``."""
T = TypeVar("T")


class FsspecSource:
    """A folder that one of fsspec's file systems opens. A revision is a fingerprint of paths, sizes and versions.

    A ``version`` is an ETag or a time of change, whichever the protocol has; it is looked at before the first and after
    the last byte of a range. Credentials and options are fsspec's own configuration and the ``storage_options`` of a
    rule. Each range in flight has a file system of its own: not all of them can be shared by threads.
    """

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        """Opens no connection and imports nothing yet."""
        self._settings, self._rule = settings, rule
        self._idle: dict[str, list[Any]] = {}
        self._lock = threading.Lock()

    def resolve(self, ref: AdapterRef) -> Revision:
        """The files below the folder that ``ref`` names, at this moment.

        Raises:
            NotFound: there is no such folder.
            UsageError: it is a file, the protocol's package is not installed, or its options are missing.
            AccessDenied: the server does not let this user in.
            Refused: there are over 10 000 entries, or a path that could not be written.
            Unreachable: network or server, after the retries.
        """
        files = self._tried(ref, str(ref), lambda fs, root: _files(fs, root, str(ref)))
        lines = "".join(f"{file.size} {file.version} {file.path}\n" for file in files)
        return Revision(ref, hashlib.sha256(lines.encode()).hexdigest(), files)

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` of the file as it was listed, in chunks of at most 1 MiB.

        Raises:
            Corrupt: it has changed, or is gone.
            Unreachable: network or server, after the retries without progress.
        """
        what = f"{revision.ref}: {file.path}"
        if file.defect:
            raise Corrupt(f"{what} {file.defect}")
        end = file.size if stop is None or file.size is None else min(stop, file.size)
        self._check(revision, file, what)
        while end is None or start < end:
            upto = start + CHUNK if end is None else min(end, start + CHUNK)
            chunk = self._chunk(revision, file, start, upto)
            start += len(chunk)
            if end is not None and start >= end:
                self._check(revision, file, what)
            if chunk:
                yield chunk
            elif end is not None:
                raise Changed(f"{what}: it ends at byte {start}, and {end} were listed", hint=AGAIN)
            else:
                return

    def _chunk(self, revision: Revision, file: RemoteFile, start: int, stop: int) -> bytes:
        what = f"{revision.ref}: {file.path}"

        def ask(fs: Any, root: str) -> bytes:
            return bytes(fs.cat_file(f"{root}/{file.path}", start=start, end=stop))

        try:
            chunk = self._tried(revision.ref, what, ask)
        except NotFound as error:
            raise Changed(f"{what} was removed after it was listed", hint=AGAIN) from error
        if len(chunk) > stop - start:
            raise Changed(f"{what}: the server sent more bytes than requested", hint=AGAIN)
        return chunk

    def _check(self, revision: Revision, file: RemoteFile, what: str) -> None:
        try:
            info = self._tried(revision.ref, what, lambda fs, root: dict(fs.info(f"{root}/{file.path}")))
        except NotFound as error:
            raise Changed(f"{what} was removed after it was listed", hint=AGAIN) from error
        if (_size(info), _version(info)) != (file.size, file.version):
            raise Changed(f"{what} changed after it was listed", hint=AGAIN)

    def _tried(self, ref: AdapterRef, what: str, ask: Callable[[Any, str], T]) -> T:
        """The result of ``ask`` for a file system and the folder's path in it, with retries."""

        def attempt() -> T:
            try:
                with self._borrowed(ref) as fs:
                    from fsspec.core import strip_protocol

                    fs.invalidate_cache()
                    answer = partial(ask, fs, str(strip_protocol(_url(ref))).rstrip("/"))
                    return _within(answer, self._settings.timeout_s, _protocol(ref))
            except (Transient, LoraCliError):
                raise
            except Exception as error:
                raise _refusal(error, ref, what) from error

        return Retries(self._settings.retries).call(what, attempt)

    @contextmanager
    def _borrowed(self, ref: AdapterRef) -> Iterator[Any]:
        """A file system that no other thread uses at the same time; one that failed is not used again."""
        with self._lock:
            waiting = self._idle.setdefault("/".join(_url(ref).split("/")[:3]), [])
            fs = waiting.pop() if waiting else None
        if fs is None:
            fs = _within(lambda: _opened(ref, self._rule), self._settings.timeout_s, _protocol(ref))
        yield fs
        with self._lock:
            waiting.append(fs)


def _url(ref: AdapterRef) -> str:
    """The reference as fsspec has it."""
    return str(ref).removeprefix(f"{FSSPEC}+")


def _protocol(ref: AdapterRef) -> str:
    return _url(ref).partition("://")[0]


def _opened(ref: AdapterRef, rule: "SourceRule | None") -> Any:
    """The file system that ``ref`` is on, with fsspec's own configuration and the options of ``rule``.

    Raises:
        UsageError: its package is not installed, or a variable that ``rule`` names is not set.
    """
    import fsspec

    protocol = _protocol(ref)
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        reason = printable(str(error).splitlines()[0] if str(error) else "")
        raise UsageError(
            f"{ref}: a package for {protocol}:// is not installed", hint=f"fsspec reports: {reason}"
        ) from error
    configured = fsspec.config.apply_config(kind, {})
    for name, value in configured.items():
        if is_secret(name):
            remember(str(value))
    options = _resolved(rule.storage_options, rule) if rule is not None else {}
    if protocol in _BY_KEY:
        options["host_key_policy"] = _known_hosts()
    # The last two win over options of these names: another protocol would read this machine.
    return fsspec.url_to_fs(_url(ref), **{**options, "protocol": protocol, "skip_instance_cache": True})[0]


def _resolved(options: Mapping[str, Any], rule: "SourceRule") -> dict[str, Any]:
    """The options with the values of the variables that ``NAME_env`` names; raises as ``_opened``."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            found[name] = _resolved(value, rule)
        elif name.endswith("_env"):
            found[name.removesuffix("_env")] = secret_in(value, name, rule, os.environ)
        else:
            found[name] = value
    return found


def _within(call: Callable[[], T], timeout_s: float, scheme: str) -> T:
    """The result of ``call`` within ``timeout_s``: not every file system has a timeout of its own."""
    asked = run_in_thread(call, scheme)
    wait([asked], timeout_s)
    if not asked.done():
        raise Transient(f"the {scheme} server sent no data for {timeout_s:g} s")
    if (error := asked.exception()) is not None:
        _raise_transient(error, scheme)
        raise error
    return asked.result()


def _raise_transient(error: BaseException, scheme: str) -> None:
    """Raises ``Transient`` for errors that may be gone at the next try; others are an answer of the server."""
    answers = FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError | LoraCliError
    # What paramiko and botocore say of a connection that broke is no OSError; of who is let in paramiko says so.
    kinds = {kind.__name__ for kind in type(error).__mro__} & {"HTTPClientError", "ConnectionError"}
    broke = kinds or (type(error).__name__ == "SSHException" and "authentication" not in str(error))
    if broke or (isinstance(error, OSError | EOFError) and not isinstance(error, answers)):
        hint = "check the network, and the host's name and port"
        reason = f"no response from the {scheme} server ({type(error).__name__})"
        raise Transient(reason, hint=hint, final=is_unknown_host(error)) from error


def _refusal(error: Exception, ref: AdapterRef, what: str) -> LoraCliError:
    """Translates an error of the server or the library. Its message may contain options: it is not shown."""
    kind, hint = type(error).__name__, _SETTINGS.format(_protocol(ref).upper())
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound(f"{what}: not found", hint="check the spelling and the permissions")
    if kind == "UnknownHost":
        return AccessDenied(f"{what}: {error}", hint="compare its key, and add it to ~/.ssh/known_hosts (ssh-keyscan)")
    if isinstance(error, PermissionError) or re.search("Auth|Credentials", kind):
        return AccessDenied(f"{what}: the server denies access to this user ({kind})", hint=hint)
    return UsageError(f"{what}: it cannot be read over {ref.prefix} ({kind})", hint=hint)


def _known_hosts() -> Any:
    """A policy that trusts only the hosts of ``~/.ssh/known_hosts``: fsspec would trust any."""
    import paramiko

    class UnknownHost(paramiko.SSHException):  # type: ignore[misc]
        """The key of a host is unknown."""

    class KnownHosts(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
        """Asks the user's own file, as ssh does."""

        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            known = paramiko.HostKeys()
            with suppress(OSError):
                known.load(str(home_of(os.environ) / ".ssh" / "known_hosts"))
            if not known.check(hostname, key):
                raise UnknownHost(f"the key of the host {hostname} is unknown")

    return KnownHosts()


def _files(fs: Any, root: str, what: str) -> tuple[RemoteFile, ...]:
    """Every file below ``root``, folder after folder, with a bound."""
    if dict(fs.info(root or "/")).get("type") == "file":
        raise UsageError(f"{what} is a file, not a folder", hint=f"write {what.rpartition('/')[0]}")
    files: dict[str, RemoteFile] = {}
    folders, inside, budget = [root], f"{root.strip('/')}/", ListingBudget(what, "use the folder of one adapter")
    while folders:
        for entry in fs.ls(folders.pop() or "/", detail=True):
            name = str(entry["name"]).strip("/")
            path = name.removeprefix(inside if inside != "/" else "")
            budget.take(path)
            if path in {"", root.strip("/")}:
                continue
            if entry.get("type") == "directory":
                folders.append(f"{root}/{path}")
            else:
                files[path] = _file(path, entry)
    check_listed(files, what)
    return tuple(file for _, file in sorted(files.items()))


def _file(path: str, entry: Mapping[str, Any]) -> RemoteFile:
    kind = entry.get("type", "file")
    defect = "" if kind == "file" else "is a link" if kind == "link" else "is not a regular file"
    return RemoteFile(path, _size(entry), version=_version(entry), defect=defect)


def _size(entry: Mapping[str, Any]) -> int | None:
    size = entry.get("size")
    with suppress(TypeError, ValueError):
        return int(size) if size is not None and int(size) >= 0 else None
    return None


def _version(entry: Mapping[str, Any]) -> str:
    name = next((name for name in _VERSIONS if entry.get(name)), "")
    return f"{name}:{printable(str(entry[name]))}" if name else ""
