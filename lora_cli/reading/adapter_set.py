"""The adapters of a manifest as its lock pins them, and the settings that its policy makes."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from lora_cli.core.adapter_request import Item
from lora_cli.core.lock import Lock, LockedAdapter, ref_at
from lora_cli.core.reference import LATEST
from lora_cli.documents.lockfile import mismatch
from lora_cli.documents.manifest import AdapterEntry, AdapterSet
from lora_cli.reading.manifest import read_policy
from lora_cli.settings import Settings


def locked_adapters(adapter_set: AdapterSet, lock: Lock) -> Mapping[str, LockedAdapter]:
    """The lock's entries that match the manifest, by adapter name.

    Raises:
        UsageError: a locked revision is not a valid one.
    """
    found = {}
    for entry in adapter_set.adapters:
        locked = lock.adapter(entry.name)
        if locked is not None and not mismatch(entry, locked):
            ref_at(entry.source, locked)
            found[entry.name] = locked
    return found


def items_of(entries: Iterable[AdapterEntry], locked: Mapping[str, LockedAdapter]) -> tuple[Item, ...]:
    """Adapters at their locked revision; those that are not locked at the revision of their source."""
    items = []
    for entry in entries:
        at = locked.get(entry.name)
        source = entry.source if at is None else ref_at(entry.source, at)
        items.append(Item(entry.name, source, entry.sha256, entry.pinned, at, latest=entry.checkpoint == LATEST))
    return tuple(items)


def with_policies(settings: Settings, adapter_set: AdapterSet | None, policy: Path | None = None) -> Settings:
    """``settings`` with the sources and policy of a manifest, and with the policy file.

    Raises:
        UsageError: an error in the policy file, with line and key.
    """
    if adapter_set is not None:
        said = (adapter_set.policy,) if adapter_set.policy is not None else ()
        settings = replace(settings, sources=adapter_set.sources, policies=said, from_manifest=True)
    if policy is not None:
        settings = replace(settings, policies=(*settings.policies, read_policy(policy)))
    return settings
