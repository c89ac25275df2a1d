"""Where ``fetch`` puts what it fetched: the cache, the views of a manifest's adapters, and ``--to``."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lora_cli.cli.wanted import Order
from lora_cli.core.snapshot import Snapshot
from lora_cli.errors import LoraCliError, MachineError, UsageError
from lora_cli.fetch.many import Outcome
from lora_cli.store import Store

_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Handing:
    """Where adapters can be used: in the store, or in the folder of ``targets`` for the adapter of that number.

    With ``views`` the store also keeps each one under its name.
    """

    store: Store
    targets: Sequence[Path] | None
    views: bool = False

    def hand_out_each(self, outcomes: Iterator[Outcome]) -> Iterator[tuple[Outcome, Path | None]]:
        """Each outcome with its directory; one that cannot be handed out has failed."""
        for number, outcome in enumerate(outcomes):
            if outcome.fetched is None:
                yield outcome, None
            else:
                yield self._handed(outcome, outcome.fetched.snapshot, self.targets[number] if self.targets else None)

    def _handed(self, outcome: Outcome, snapshot: Snapshot, target: Path | None) -> tuple[Outcome, Path | None]:
        from lora_cli.store.blobs import LostBlob
        from lora_cli.store.handout import hand_out
        from lora_cli.store.views import keep_view

        try:
            if self.views:
                keep_view(self.store, outcome.wanted.name, snapshot)
            return outcome, hand_out(self.store, snapshot, target) if target else snapshot.directory.absolute()
        except LostBlob:
            error: LoraCliError = MachineError(f"{self.store.root} is being cleaned meanwhile", hint="try again")
        except LoraCliError as refused:
            error = refused
        return replace(outcome, error=error), None


def folders(to: str, order: Order) -> list[Path]:
    """The folder of each adapter: ``to`` itself for one that was asked for alone, else folders in it by name.

    Raises:
        UsageError: ``to`` is empty, or a name cannot be the folder of one adapter.
    """
    if not to:
        raise UsageError("--to names no folder", hint="--to DIRECTORY")
    root = Path(os.path.abspath(Path(to).expanduser()))  # noqa: PTH100 - links stay links
    if order.alone:
        return [root]
    names = [item.name for item in order.adapters]
    for name in (item.name for item in order.adapters if not isinstance(item.ref, UsageError)):
        if not _FOLDER.fullmatch(name) or names.count(name) > 1:
            raise UsageError(
                f"{name!r} cannot be the folder of one adapter in {root}",
                hint="give each a name in a manifest, with -f",
            )
    return [root / name for name in names]
