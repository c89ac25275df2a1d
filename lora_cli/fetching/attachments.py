"""Documents that are attached to an adapter at its origin: signatures and verdicts, as referrers in a registry."""

from collections.abc import Callable, Sequence
from functools import cache, partial

from lora_cli.core.reference import AdapterRef
from lora_cli.settings import Settings
from lora_cli.sources import AttachmentSource, Source
from lora_cli.store import Store
from lora_cli.store.attached_documents import read_attached, write_attached

Attached = Callable[[str], Sequence[bytes]]
"""The documents of a media type. They are read when they are first asked for."""


def nothing(_: str) -> Sequence[bytes]:
    """Nothing is attached."""
    return ()


def cached_attachments(ref: AdapterRef, revision: str, store: Store) -> Attached:
    """What was attached to a revision when it was last fetched."""
    return partial(read_attached, store, revision) if ref.scheme == "oci" else nothing


def attached_to(
    ref: AdapterRef,
    revision: str | None,
    source: Callable[[], Source],
    settings: Settings,
    cache_in: Store | None = None,
) -> Attached:
    """What is attached to a revision (None: it is not known) at its ``source``.

    What is read is written into the cache ``cache_in``, where offline mode finds it.
    """
    if not revision or ref.scheme != "oci":
        return nothing
    if settings.offline:
        return cached_attachments(ref, revision, Store(settings.cache_dir))

    @cache
    def documents(media_type: str) -> Sequence[bytes]:
        origin = source()
        found = origin.attached(ref, revision, media_type) if isinstance(origin, AttachmentSource) else ()
        if cache_in is not None:
            write_attached(cache_in, revision, media_type, found)
        return found

    return documents
