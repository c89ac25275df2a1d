"""Where ``fetch`` puts what it fetched: the cache, the views of a manifest's adapters, ``--to`` and ``--publish``."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lora_cli.cli.wanted import Order
from lora_cli.core.names import NAME
from lora_cli.errors import LoraCliError, MachineError, UsageError
from lora_cli.fetching.many import Handed, Outcome
from lora_cli.fetching.publish import Served, publish_adapter
from lora_cli.store import Store
from lora_cli.store.blobs import LostBlob
from lora_cli.store.handout import hand_out
from lora_cli.store.views import keep_view


@dataclass(frozen=True, slots=True)
class Handing:
    """Where adapters can be used: in the store, or in the folder of ``targets`` for the adapter of that number.

    With ``views`` the store also keeps each one under its name. With ``served`` the targets are published for an
    engine's resolver.
    """

    store: Store
    targets: Sequence[Path] | None
    views: bool = False
    served: Served | None = None

    def hand_out_each(self, outcomes: Iterator[Outcome]) -> Iterator[Handed]:
        """Each outcome with its directory; one that cannot be handed out has failed."""
        for number, outcome in enumerate(outcomes):
            yield self._handed(outcome, self.targets[number] if self.targets else None)

    def _handed(self, outcome: Outcome, target: Path | None) -> Handed:
        if outcome.fetched is None:
            return Handed(outcome)
        snapshot = outcome.fetched.snapshot
        try:
            if self.views:
                keep_view(self.store, outcome.wanted.name, snapshot)
            if target is None:
                return Handed(outcome, snapshot.directory.absolute())
            if self.served is None:
                return Handed(outcome, hand_out(self.store, snapshot, target))

            return Handed(outcome, target, publish_adapter(self.store, snapshot, target, self.served))
        except LostBlob:
            error: LoraCliError = MachineError(f"{self.store.root} is being cleaned meanwhile", hint="try again")
        except LoraCliError as refused:
            error = refused
        return Handed(replace(outcome, error=error))


def handing(
    order: Order, store: Store, to: str | None, publish: str | None, base: str = "", fix_base: str = ""
) -> Handing:
    """Where the adapters of ``order`` go: the options of ``fetch`` by their names.

    Raises:
        UsageError: two places at once, none, or a name that cannot be the folder of one adapter.
    """
    if to is not None and publish is not None:
        raise UsageError("--to and --publish exclude each other", hint="fetch twice: the second one costs nothing")
    if fix_base and publish is None:
        raise UsageError("--fix-base is for what is published", hint="--publish DIRECTORY")
    if publish is not None:
        published = folders("--publish", publish, order, by_name=True)
        served = Served(fix_base, fix=True) if fix_base else Served(base or _repository(order))
        return Handing(store, published, order.named, served)
    targets = None if to is None else folders("--to", to, order, by_name=not order.alone)
    return Handing(store, targets, order.named)


def _repository(order: Order) -> str | None:
    """The base's name as an engine serves it: the manifest's repository. A folder may have any name."""
    base = order.manifest.base if order.manifest is not None else None
    return base.location if base is not None and base.scheme == "hf" and not base.subfolder else None


def unchecked(order: Order, place: Handing) -> str:
    """What is said where nobody tells under which name an engine serves the base; empty where that is known."""
    if place.served is None or place.served.name is not None:
        return ""
    base = order.manifest.base if order.manifest is not None else None
    is_path = base is not None and base.scheme == "file"
    why = "no base is named" if base is None else f"the manifest's base is {'a path' if is_path else base}"
    return f"not checked for which base it is published: {why}; give --base NAME, as the engine's --model has it"


def folders(option: str, folder: str, order: Order, *, by_name: bool) -> list[Path]:
    """The folder of each adapter: ``folder`` itself, or folders in it ``by_name``.

    Raises:
        UsageError: it is empty, or a name cannot be the folder of one adapter.
    """
    if not folder:
        raise UsageError(f"{option} names no folder", hint=f"{option} DIRECTORY")
    root = Path(os.path.abspath(Path(folder).expanduser()))  # noqa: PTH100 - links stay links
    if not by_name:
        return [root] * len(order.adapters)
    names = [item.name for item in order.adapters]
    for name in (item.name for item in order.adapters if not isinstance(item.ref, UsageError)):
        if not re.fullmatch(NAME, name, re.ASCII) or names.count(name) > 1:
            raise UsageError(
                f"{name!r} cannot be the folder of one adapter in {root}",
                hint="give each a name in a manifest, with -f",
            )
    return [root / name for name in names]
