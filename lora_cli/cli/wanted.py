"""What ``fetch`` is asked for: adapters, from REFs or from a manifest."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.core.addresses import without_secrets
from lora_cli.core.checkpoint import LATEST, checked, folder_of
from lora_cli.core.reference import override, parse
from lora_cli.errors import UsageError
from lora_cli.fetching.many import Wanted

if TYPE_CHECKING:
    from lora_cli.documents.manifest import AdapterSet


@dataclass(frozen=True, slots=True)
class Order:
    """The adapters in the order asked for, and the manifest that they are from, if any.

    ``alone`` says that one was asked for and no more, as ``--to`` needs to know even where a shard has only one.
    """

    adapters: tuple[Wanted, ...]
    manifest: "AdapterSet | None" = None
    alone: bool = False

    @property
    def named(self) -> bool:
        """Whether each adapter has a name that is its own."""
        return self.manifest is not None

    def key(self, item: Wanted) -> str:
        """What an adapter is told from the others by: its name in the manifest, else its reference."""
        return item.name if self.named or isinstance(item.ref, UsageError) else str(item.ref)


@dataclass(frozen=True, slots=True)
class LockFlags:
    """What the command line says about a manifest's lock: where it is, that it holds as it is, what may leave it."""

    lock: Path | None = None
    locked: bool = False
    check: bool = False
    upgrade: bool = False
    names: tuple[str, ...] = ()

    @property
    def given(self) -> list[str]:
        """The options that were given."""
        return [name for name in ("lock", "locked", "check", "upgrade") if getattr(self, name)]


def check_flags(flags: LockFlags, manifest: Path | None, *, chosen: bool) -> None:
    """Whether they make sense together; ``chosen`` says that somebody chose files.

    Raises:
        UsageError: they do not.
    """
    if manifest is None and flags.given:
        raise UsageError(f"--{flags.given[0]} is for an adapter set", hint="name it with -f")
    exclusive = [name for name in flags.given if name != "lock"]
    if len(exclusive) > 1:
        raise UsageError(f"--{exclusive[0]} and --{exclusive[1]} exclude each other", hint="leave one of them out")
    if flags.locked and chosen:
        raise UsageError("--locked takes the files of the lock", hint="leave --include and --exclude out")


def order(
    refs: Sequence[str],
    manifest: Path | None,
    *,
    revision: str | None = None,
    subfolder: str = "",
    checkpoint: str = "",
) -> Order:
    """What is to be fetched; exactly one of REFs and a manifest is wanted.

    A ``checkpoint`` by number is a folder in each REF; the latest one is known when its origin has been asked.

    Raises:
        UsageError: both or neither, options of the other one, or a manifest that is wrong.
    """
    if manifest is not None and (revision is not None or subfolder or checkpoint):
        hint = "write them into the manifest: source: hf://ORG/NAME/FOLDER@REVISION, checkpoint: latest"
        raise UsageError("--revision, --subfolder and --checkpoint are for REFs", hint=hint)
    folder = f"{subfolder.rstrip('/')}/{checkpoint_folder(checkpoint)}".strip("/") if checkpoint else subfolder
    if manifest is None and refs:
        latest = checkpoint == LATEST
        return Order(tuple(_asked(text, revision, folder, latest=latest) for text in refs), alone=len(refs) == 1)
    from lora_cli.cli.lineup import manifest_of

    adapter_set = manifest_of(manifest, refs, "fetch")
    assert adapter_set is not None
    entries = tuple(
        Wanted(entry.name, entry.source, entry.sha256, latest=entry.checkpoint == LATEST)
        for entry in adapter_set.adapters
    )
    return Order(entries, adapter_set, alone=len(entries) == 1)


def checkpoint_folder(checkpoint: str) -> str:
    """The folder that ``--checkpoint`` asks for, "" for the latest one and for none.

    Raises:
        UsageError: it is neither a number nor ``latest``.
    """
    try:
        return folder_of(checked(checkpoint)) if checkpoint else ""
    except ValueError as error:
        raise UsageError(f"--checkpoint {error}", hint="--checkpoint latest") from error


def _asked(text: str, revision: str | None, subfolder: str, *, latest: bool) -> Wanted:
    """What one word asks for; what is no reference is an outcome of its own, and stops no other one."""
    typed = without_secrets(text)
    try:
        ref = override(parse(text, is_path=os.path.lexists), revision=revision, subfolder=subfolder)
    except UsageError as error:
        return Wanted(typed, error)
    return Wanted(ref.name, ref, latest=latest, typed=typed)
