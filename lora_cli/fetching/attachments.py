"""Documents that are attached to an adapter at its origin: signatures and verdicts, as referrers in a registry."""

from collections.abc import Callable, Sequence
from functools import cache

from lora_cli.core.reference import AdapterRef
from lora_cli.settings import Settings
from lora_cli.sources import AttachmentSource, Source

Attached = Callable[[str], Sequence[bytes]]
"""The documents of a media type. They are read when they are first asked for."""


def nothing(_: str) -> Sequence[bytes]:
    """Nothing is attached."""
    return ()


def attached_to(ref: AdapterRef, revision: str | None, source: Callable[[], Source], settings: Settings) -> Attached:
    """What is attached to a revision (None: it is not known) at its ``source``; nothing in offline mode."""

    @cache
    def documents(media_type: str) -> Sequence[bytes]:
        origin = source()
        return origin.attached(ref, revision or "", media_type) if isinstance(origin, AttachmentSource) else ()

    return nothing if settings.offline or not revision or ref.scheme != "oci" else documents
