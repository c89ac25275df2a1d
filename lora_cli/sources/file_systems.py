"""fsspec's file systems, opened: whom they trust, what a manifest may have them send, and how they list."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from lora_cli.core.globs import host_in
from lora_cli.core.redaction import is_secret
from lora_cli.core.reference import AdapterRef
from lora_cli.errors import UsageError
from lora_cli.redaction import remember
from lora_cli.settings import Settings, home_of
from lora_cli.sources.retries import printable
from lora_cli.sources.trusted import check_encrypted, raise_unless_trusted, trust_of

_BY_KEY = frozenset({"sftp", "ssh"})
"""The protocols whose hosts the user vouches for in ``~/.ssh/known_hosts``."""

_BY_ITSELF = frozenset({"hdfs", "smb"})
"""The protocols whose packages find credentials of this machine where none are configured."""


def opened(ref: AdapterRef, settings: Settings) -> Any:
    """The file system that ``ref`` is on, with fsspec's own configuration.

    Raises:
        UsageError: its package is not installed.
        Refused: only a manifest names its server, and there are credentials that it would be sent.
    """
    import fsspec

    try:
        kind = fsspec.get_filesystem_class(ref.scheme)
    except (ImportError, ValueError) as error:
        told = printable(str(error).splitlines()[0] if str(error) else "")
        raise UsageError(
            f"{ref}: a package for {ref.scheme}:// is not installed", hint=f"fsspec says: {told}"
        ) from error
    if settings.from_manifest:
        _check_server(ref, settings, fsspec.config.apply_config(kind, {}))
    for name, value in fsspec.config.apply_config(kind, {}).items():
        if is_secret(name):
            remember(str(value))
    options = kind._get_kwargs_from_urls(str(ref))
    if ref.scheme in _BY_KEY:
        options["host_key_policy"] = _known_hosts()
    elif ref.scheme == "webhdfs":
        from lora_cli.sources.webhdfs import GuardedWebHDFS

        return GuardedWebHDFS(settings=settings, **options, skip_instance_cache=True)
    elif ref.scheme == "smb":
        import smbclient

        # A server that refers us to another one would be sent the credentials there.
        smbclient.ClientConfig(skip_dfs=True)
    return kind(**options, skip_instance_cache=True)


def _check_server(ref: AdapterRef, settings: Settings, configured: Mapping[str, Any]) -> None:
    """Whether a server that a manifest names may be sent what is configured for its protocol; raises as ``opened``."""
    server = host_in(ref)
    if not server or ref.scheme in _BY_KEY or not (configured or ref.scheme in _BY_ITSELF):
        return
    trust, address = trust_of(settings), f"{ref.scheme}://{server}"
    raise_unless_trusted(
        address, trust, f"{ref}: the credentials for {ref.scheme}:// are not sent to {{}} for a manifest"
    )
    if ref.scheme == "webhdfs" and str(configured.get("use_https", "")).lower() not in {"true", "1"}:
        check_encrypted(f"http://{server}")


def entries_of(fs: Any, folder: str) -> Iterable[Mapping[str, Any]]:
    """What is in ``folder``, one by one where the library can do so: whoever has enough stops."""
    if fs.protocol == "smb":
        return _of_a_share(fs, folder)
    if "sftp" in fs.protocol:
        return (fs._decode_stat(found, folder) for found in fs.ftp.listdir_iter(folder))
    found: Iterable[Mapping[str, Any]] = fs.ls(folder, detail=True)
    return found


def _of_a_share(fs: Any, folder: str) -> Iterable[Mapping[str, Any]]:
    """What is in a folder of a share: its library reads the listing of a server on and on for a list of it."""
    import smbclient

    unc = f"//{fs.host}{folder}".replace("/", "\\")
    with smbclient.scandir(unc, port=fs.port or 445) as found:
        for entry in found:
            yield fs.info(f"{folder.rstrip('/')}/{entry.name}")


def _known_hosts() -> Any:
    """A policy that trusts the hosts of ``~/.ssh/known_hosts`` alone: fsspec would trust any."""
    import paramiko

    class UnknownHost(paramiko.SSHException):  # type: ignore[misc]
        """No one vouches for this host's key."""

    class KnownHosts(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
        """Asks the user's own file, as ssh does."""

        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            known = paramiko.HostKeys()
            with suppress(OSError):
                known.load(str(home_of(os.environ) / ".ssh" / "known_hosts"))
            if not known.check(hostname, key):
                raise UnknownHost(f"the key of the host {hostname} is not known")

    return KnownHosts()
