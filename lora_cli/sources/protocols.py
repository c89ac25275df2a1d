"""Folders over remote protocols that fsspec knows and no source of ours does: SFTP, SMB, HDFS and more."""

import errno
import hashlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import AccessDenied, Changed, Corrupt, LoraCliError, NotFound, UsageError
from lora_cli.settings import Settings
from lora_cli.sources.file_systems import entries_of, opened
from lora_cli.sources.http import AGAIN
from lora_cli.sources.listed import Room, check_listed
from lora_cli.sources.retries import Retries, Transient, printable

if TYPE_CHECKING:
    from lora_cli.documents.manifest import SourceRule

CHUNK = 1 << 20
# What file systems call what tells one version of a file from another: the first that one has counts.
_VERSIONS = (
    *("ETag", "etag", "e_tag", "content_md5", "md5", "mtime", "modified", "last_modified", "LastModified"),
    *("updated", "modify", "modificationTime", "last_write_time"),
)
_SETTINGS = "say it in ~/.config/fsspec/conf.json or as FSSPEC_{}_…: see fsspec's documentation of this protocol"
# What Windows calls the absence of a file, a folder or a share, and a refusal: smbprotocol knows only some by number.
_NT = dict.fromkeys((0xC000000F, 0xC0000034, 0xC000003A, 0xC00000CC), errno.ENOENT) | {0xC0000022: errno.EACCES}
T = TypeVar("T")


class FsspecSource:
    """A folder that one of fsspec's file systems opens. A revision is a fingerprint of paths, sizes and versions.

    A ``version`` is an ETag or a time of change, whichever the protocol has; it is looked at before the first and after
    the last byte of a range. Credentials and options are fsspec's own configuration. Each range in flight has a file
    system of its own: not all of them can be shared by threads.
    """

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        """Opens no connection and imports nothing yet."""
        self._settings = settings
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
            raise Changed(f"{what} is gone: it was listed a moment ago", hint=AGAIN) from error
        if len(chunk) > stop - start:
            raise Changed(f"{what}: more bytes came than were asked for", hint=AGAIN)
        return chunk

    def _check(self, revision: Revision, file: RemoteFile, what: str) -> None:
        try:
            info = self._tried(revision.ref, what, lambda fs, root: dict(fs.info(f"{root}/{file.path}")))
        except NotFound as error:
            raise Changed(f"{what} is gone: it was listed a moment ago", hint=AGAIN) from error
        if (_size(info), _version(info)) != (file.size, file.version):
            raise Changed(f"{what} changed after it was listed", hint=AGAIN)

    def _tried(self, ref: AdapterRef, what: str, ask: Callable[[Any, str], T]) -> T:
        """What ``ask`` gives of a file system and the folder's path in it, asked again after what may pass."""

        def attempt() -> T:
            try:
                with self._borrowed(ref) as fs:
                    fs.invalidate_cache()
                    answer = partial(ask, fs, str(fs._strip_protocol(str(ref))).rstrip("/"))
                    return _within(answer, self._settings.timeout_s, ref.scheme)
            except (Transient, LoraCliError):
                raise
            except Exception as error:
                raise _refusal(error, ref, what) from error

        return Retries(self._settings.retries).call(what, attempt)

    @contextmanager
    def _borrowed(self, ref: AdapterRef) -> Iterator[Any]:
        """A file system that nobody else uses meanwhile; one that failed is not used again."""
        place = ref.location.partition("/")[0]
        with self._lock:
            waiting = self._idle.setdefault(f"{ref.scheme}://{place}", [])
            fs = waiting.pop() if waiting else None
        if fs is None:
            fs = _within(lambda: opened(ref, self._settings), self._settings.timeout_s, ref.scheme)
        yield fs
        with self._lock:
            waiting.append(fs)


def _within(call: Callable[[], T], timeout_s: float, scheme: str) -> T:
    """What ``call`` gives, if that is within ``timeout_s``: not every file system has a timeout of its own."""
    done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that asked
            done.put((None, error))

    threading.Thread(target=run, name=scheme, daemon=True).start()
    try:
        given, error = done.get(timeout=timeout_s)
    except queue.Empty:
        raise Transient(f"the {scheme} server was silent for {timeout_s:g} s") from None
    if error is not None:
        error = _plain(error)
        _raise_transient(error, scheme)
        raise error
    return given  # type: ignore[return-value]


def _plain(error: BaseException) -> BaseException:
    """Python's own error, where a library has one of its own that says the same, or hides it behind another one."""
    if isinstance(error.__cause__, ConnectionError) and not isinstance(error, OSError):
        return error.__cause__
    number = _NT.get(getattr(error, "ntstatus", 0), getattr(error, "errno", None))
    if isinstance(error, OSError) and number is not None:
        # The class of an OSError follows from its number.
        plain = OSError(number, type(error).__name__)
        plain.__cause__ = error
        return plain
    return error


def _raise_transient(error: BaseException, scheme: str) -> None:
    """Raises what may be gone at the next try; anything else has an answer in it."""
    said = FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError | LoraCliError
    # What paramiko says of a connection that broke is no OSError; of who is let in it says so.
    broke = type(error).__name__ == "SSHException" and "authentication" not in str(error)
    if broke or (isinstance(error, OSError | EOFError) and not isinstance(error, said)):
        hint = "check the network, and the host's name and port"
        raise Transient(f"no answer from the {scheme} server ({type(error).__name__})", hint=hint) from error


def _refusal(error: Exception, ref: AdapterRef, what: str) -> LoraCliError:
    """Why the server, or the library, does not do it. The library's own words may hold options: they are not told."""
    kind, hint = type(error).__name__, _SETTINGS.format(ref.scheme.upper())
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound(f"{what}: there is no such thing", hint="check the spelling, and who may see it")
    if kind == "UnknownHost":
        return AccessDenied(f"{what}: {error}", hint="compare its key, and add it to ~/.ssh/known_hosts (ssh-keyscan)")
    if isinstance(error, PermissionError) or "Auth" in kind or "Logon" in kind:
        return AccessDenied(f"{what}: the server does not let this user in ({kind})", hint=hint)
    return UsageError(f"{what}: it cannot be read over {ref.scheme}:// ({kind})", hint=hint)


def _files(fs: Any, root: str, what: str) -> tuple[RemoteFile, ...]:
    """Every file below ``root``, folder after folder, with a bound."""
    if dict(fs.info(root or "/")).get("type") == "file":
        raise UsageError(f"{what} is a file, not a folder", hint=f"write {what.rpartition('/')[0]}")
    files: dict[str, RemoteFile] = {}
    folders, inside, room = [root], f"{root.strip('/')}/", Room(what, "name the folder of one adapter")
    while folders:
        for entry in entries_of(fs, folders.pop() or "/"):
            name = str(entry["name"]).strip("/")
            path = name.removeprefix(inside if inside != "/" else "")
            room.take(path)
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
    defect = "" if kind == "file" else "is a link" if kind == "link" else "is no plain file"
    return RemoteFile(path, _size(entry), version=_version(entry), defect=defect)


def _size(entry: Mapping[str, Any]) -> int | None:
    size = entry.get("size")
    with suppress(TypeError, ValueError):
        return int(size) if size is not None and int(size) >= 0 else None
    return None


def _version(entry: Mapping[str, Any]) -> str:
    name = next((name for name in _VERSIONS if entry.get(name)), "")
    return f"{name}:{printable(str(entry[name]))}" if name else ""
