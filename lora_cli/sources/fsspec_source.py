"""Folders over remote protocols that fsspec reads: ``fsspec+PROTOCOL://``."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any, TypeVar

from lora_cli.errors import AccessDenied, Changed, LoraCliError, NotFound, Refused, UsageError
from lora_cli.parallel import run_in_thread
from lora_cli.refs.reference import FSSPEC, AdapterRef
from lora_cli.refs.snapshot import RemoteFile, Revision
from lora_cli.settings import Settings, home_of
from lora_cli.sources import MOST_ENTRIES, Source, Transient, is_unknown_host
from lora_cli.sources.http import AGAIN

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule

CHUNK = 1 << 20
# Fields that identify a version of a file: the first that a file system has counts.
_VERSIONS = (
    *("ETag", "etag", "e_tag", "content_md5", "md5", "mtime", "modified", "last_modified", "LastModified"),
    *("updated", "modify", "last_write_time", "modification_time", "modifiedTime"),
)
T = TypeVar("T")


class FsspecSource(Source):
    """A folder that one of fsspec's file systems opens. A revision is a fingerprint of paths, sizes and versions.

    A ``version`` is an ETag or a time of change, whichever the protocol has; it is looked at before the first and after
    the last byte of a range. Credentials and options are fsspec's own configuration and the ``storage_options`` of a
    rule. Each range in flight has a file system of its own: not all of them can be shared by threads.
    """

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        super().__init__(settings, rule)
        self._idle = defaultdict[str, list[Any]](list)

    def _resolve(self, ref: AdapterRef) -> Revision:
        def listed(fs: Any, root: str) -> list[tuple[str, dict[str, Any]]]:
            place = f"{root}/{folder}".rstrip("/") or "/"
            if not folder and fs.info(place).get("type") == "file":
                raise UsageError(f"{ref} is a file, not a folder", hint=f"write {str(ref).rpartition('/')[0]}")
            inside = f"{root.strip('/')}/".lstrip("/")
            return [(str(one["name"]).strip("/").removeprefix(inside), one) for one in fs.ls(place, detail=True)]

        files, folders = dict[str, RemoteFile](), [""]
        while folders:
            folder = folders.pop()
            for path, entry in self._ask(ref, str(ref), listed):
                kind, (size, version) = entry.get("type", "file"), _facts(entry)
                if kind == "directory" and path.startswith(folder) and path != folder:
                    folders.append(path)
                elif kind != "directory":
                    defect = "" if kind == "file" else "is not a regular file"
                    files[path] = RemoteFile(path, size, version=version, defect=defect)
                if len(files) + len(folders) > MOST_ENTRIES:
                    raise Refused(f"{ref}: it has over {MOST_ENTRIES} entries", hint="use the folder of one adapter")
        return Revision.of_listing(ref, files.values())

    def _stream(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        ref, what, end = revision.ref, f"{revision.ref}: {file.path}", file.size if stop is None else stop

        def check(fs: Any, root: str) -> None:
            if _facts(fs.info(f"{root}/{file.path}")) != (file.size, file.version):
                raise Changed(f"{what} changed after it was listed", hint=AGAIN)

        def chunk(fs: Any, root: str) -> bytes:
            return bytes(fs.cat_file(f"{root}/{file.path}", start=start, end=upto))

        try:
            self._ask(ref, what, check)
            while end is None or start < end:
                upto = start + CHUNK if end is None else min(end, start + CHUNK)
                data = self._ask(ref, what, chunk)
                if len(data) > upto - start or (end is not None and not data):
                    raise Changed(f"{what}: the server sent {len(data)} bytes from {start} to {upto}", hint=AGAIN)
                start += len(data)
                if not data or start == end:
                    self._ask(ref, what, check)
                if not data:
                    return
                yield data
        except NotFound as error:
            raise Changed(f"{what} was removed after it was listed", hint=AGAIN) from error

    def _ask(self, ref: AdapterRef, what: str, ask: Callable[[Any, str], T]) -> T:
        """The result of ``ask`` for a file system and the folder's path in it; raises ``Transient`` as well."""
        url = str(ref).removeprefix(f"{FSSPEC}+")
        protocol, idle = url.partition("://")[0], self._idle["/".join(url.split("/")[:3])]

        def attempt() -> T:
            from fsspec.core import strip_protocol

            # No other thread uses it at the same time; one that failed is not used again.
            try:
                fs = idle.pop()
            except IndexError:
                fs = _opened(ref, url, protocol, self._rule)
            fs.invalidate_cache()
            answer = ask(fs, str(strip_protocol(url)).rstrip("/"))
            idle.append(fs)
            return answer

        # Not every file system has a timeout of its own.
        asked = run_in_thread(attempt, protocol)
        wait([asked], self._settings.timeout_s)
        if not asked.done():
            raise Transient(f"the {protocol} server sent no data for {self._settings.timeout_s:g} s")
        try:
            return asked.result()
        except LoraCliError:
            raise
        except Exception as error:
            raise _translated(error, what, protocol) from error


def _opened(ref: AdapterRef, url: str, protocol: str, rule: "SourceRule | None") -> Any:
    """The file system that ``url`` is on, with fsspec's own configuration and the options of ``rule``."""
    import fsspec

    options = _with_secrets(rule.storage_options, rule) if rule is not None else {}
    if protocol in {"sftp", "ssh"}:  # of which fsspec would trust any host
        import paramiko

        class KnownHosts(paramiko.RejectPolicy):  # type: ignore[misc]
            """Trusts only the hosts of ``~/.ssh/known_hosts``, as ssh does."""

            def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
                file = home_of(os.environ) / ".ssh" / "known_hosts"
                if not file.is_file() or not paramiko.HostKeys(str(file)).check(hostname, key):
                    hint = "compare its key, and add it to ~/.ssh/known_hosts (ssh-keyscan)"
                    raise AccessDenied(f"{ref}: the key of the host {hostname} is unknown", hint=hint)

        options["host_key_policy"] = KnownHosts()
    # The last two win over options of these names: another protocol would read this machine.
    return fsspec.url_to_fs(url, **{**options, "protocol": protocol, "skip_instance_cache": True})[0]


def _with_secrets(options: Mapping[str, Any], rule: "SourceRule") -> dict[str, Any]:
    """The options with the values of the variables that ``NAME_env`` names; raises as ``_opened``."""
    return {
        name.removesuffix("_env"): _with_secrets(value, rule)
        if isinstance(value, Mapping)
        else rule.secret_in(value, name)
        if name.endswith("_env")
        else value
        for name, value in options.items()
    }


def _translated(error: Exception, what: str, protocol: str) -> LoraCliError | Transient:
    """An error of the server or the library. Its message may contain options: it is not shown."""
    kind, kinds = type(error).__name__, {one.__name__ for one in type(error).__mro__}
    if isinstance(error, ImportError):
        hint = f"fsspec reports: {str(error).partition(chr(10))[0]:.200}"
        return UsageError(f"{what}: a package for {protocol}:// is not installed", hint=hint)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound(f"{what}: not found", hint="check the spelling and the permissions")
    # What paramiko and botocore say of a connection that broke is no OSError; of who is let in paramiko says so.
    broke = kinds & {"HTTPClientError", "ConnectionError"} or (kind == "SSHException" and "authentic" not in str(error))
    if broke or (isinstance(error, OSError | EOFError) and not isinstance(error, PermissionError | IsADirectoryError)):
        reason = f"no response from the {protocol} server ({kind})"
        return Transient(reason, hint="check the network, and the host's name and port", final=is_unknown_host(error))
    hint = f"set it in ~/.config/fsspec/conf.json or as FSSPEC_{protocol.upper()}_…: see fsspec's documentation"
    if isinstance(error, PermissionError) or re.search("Auth|Credentials", kind):
        return AccessDenied(f"{what}: the server denies access to this user ({kind})", hint=hint)
    return UsageError(f"{what}: it cannot be read over {FSSPEC}+{protocol}:// ({kind})", hint=hint)


def _facts(entry: Mapping[str, Any]) -> tuple[int | None, str]:
    """Size and version of a file, as far as they are known."""
    size, name = entry.get("size"), next((name for name in _VERSIONS if entry.get(name)), "")
    version = f"{name}:{entry[name]}" if name else ""
    return int(size) if size is not None and int(size) >= 0 else None, version
