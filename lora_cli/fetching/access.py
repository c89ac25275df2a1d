"""Whether whoever asks may still have what a shared cache holds: their origin says so, not the cache."""

from collections.abc import Collection

from lora_cli.core.adapter_files import CONFIG
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import AccessDenied, NotFound, Offline, Unreachable
from lora_cli.settings import Settings
from lora_cli.sources import Source

RULE = "policy require_access_check"


def asks_again(ref: AdapterRef, access: str, settings: Settings) -> bool:
    """Whether a policy wants the origin of ``ref`` to be asked; not where the adapter is known to be public.

    ``access`` is what is known of who may have it, as ``Revision.access``; "" is not public.
    """
    if ref.scheme == "file" or access == "public":
        return False
    return any(policy.require_access_check for policy in settings.policies)


def check_kept(ref: AdapterRef, revision: str, paths: Collection[str], source: Source, settings: Settings) -> None:
    """As ``check_access``, for files that a cache keeps and nobody has listed now.

    A commit of the Hub needs no listing: that is one request. Any other origin lists what it has first.
    """
    _check_online(ref, settings)
    if ref.scheme == "hf":
        listed = Revision(ref, revision, tuple(RemoteFile(path, None) for path in sorted(paths)))
    else:
        try:
            listed = source.resolve(ref)
        except (AccessDenied, NotFound) as error:
            raise type(error)(f"{RULE}: {error.message}", hint=error.hint) from error
    check_access(listed, source, settings)


def check_access(revision: Revision, source: Source, settings: Settings) -> None:
    """Reads one byte of the adapter from its origin, with the credentials of whoever asks.

    Raises:
        AccessDenied, NotFound: the origin does not let them, or does not have it any more.
        Offline: the network is switched off, so that nobody can be asked.
        Unreachable: the origin does not answer, or with nothing.
    """
    _check_online(revision.ref, settings)
    first = (revision.file(CONFIG), *revision.files)
    file = next((file for file in first if file is not None and file.size != 0), None)
    try:
        byte = next(iter(source.read(revision, file, 0, 1)), b"") if file is not None else b""
    except (AccessDenied, NotFound) as error:
        raise type(error)(f"{RULE}: {error.message}", hint=error.hint) from error
    if not byte:
        hint = "its origin must have something in it to be asked for"
        raise Unreachable(f"{revision.ref}: {RULE}: its origin gave nothing", hint=hint)


def _check_online(ref: AdapterRef, settings: Settings) -> None:
    if settings.offline:
        raise Offline(
            f"{ref}: {RULE}: its origin must be asked who may have it, and the network is switched off",
            hint="leave --offline out, or let the policy do without for this source",
        )
