"""Whether whoever asks may still have what a shared cache holds: their origin says so, not the cache."""

from lora_cli.core.adapter_files import CONFIG
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Revision
from lora_cli.errors import AccessDenied, NotFound, Offline
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


def check_access(revision: Revision, source: Source, settings: Settings) -> None:
    """Reads one byte of the adapter from its origin, with the credentials of whoever asks.

    Raises:
        AccessDenied, NotFound: the origin does not let them, or does not have it any more.
        Offline: the network is switched off, so that nobody can be asked.
        Unreachable: the origin does not answer.
    """
    if settings.offline:
        raise Offline(
            f"{revision.ref}: {RULE}: its origin must be asked who may have it, and the network is switched off",
            hint="leave --offline out, or let the policy do without for this source",
        )
    file = revision.file(CONFIG) or revision.files[0]
    try:
        next(iter(source.read(revision, file, 0, 1)), None)
    except (AccessDenied, NotFound) as error:
        raise type(error)(f"{RULE}: {error.message}", hint=error.hint) from error
