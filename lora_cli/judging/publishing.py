"""Where fetched adapters go: the cache, a folder each, or, once they are judged, the folder of an engine's resolver."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.errors import LoraCliError, MachineError, UsageError
from lora_cli.fetching.batch import Outcome
from lora_cli.finding import Severity
from lora_cli.refs.request import NAME, Request
from lora_cli.store import Store
from lora_cli.store.materialize import materialize, publish_adapter
from lora_cli.store.snapshots import LostBlob

if TYPE_CHECKING:
    from lora_cli.judging.read import Terms


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the adapters are written: the store, or the folder in ``targets`` for each adapter.

    If they are ``published``, it is for the resolver of an engine that names the base ``served`` (None: unknown), and
    only what passes ``terms`` (None: everything).
    """

    store: Store
    targets: Sequence[Path] | None = None
    published: bool = False
    served: str | None = None
    terms: "Terms | None" = None

    def deliver(self, outcome: Outcome, number: int) -> Outcome:
        """The outcome with its directory, or with the error of writing it."""
        if outcome.fetched is None:
            return outcome
        snapshot, target = outcome.fetched.snapshot, self.targets[number] if self.targets else None
        try:
            if target is None:
                return replace(outcome, directory=snapshot.directory.absolute())
            if not self.published:
                materialize(self.store, snapshot, target)
                return replace(outcome, directory=target)
            from lora_cli.judging.result import Result

            judged = replace(Result.of(outcome.request), snapshot=snapshot)
            if self.terms is not None:
                from lora_cli.judging.judge import judge_fetched

                judged = judge_fetched(judged, self.terms)
            if judged.refusal is not None:
                raise judged.refusal
            published = publish_adapter(self.store, snapshot, target, self.served)
            found = [one for one in judged.findings if one.severity is Severity.WARNING]
            warnings = (*judged.unchecked, *(f"{one.code} {one.name}: {one.problem.message}" for one in found))
            return replace(outcome, directory=target, published=published, warnings=warnings)
        except LostBlob:
            busy = f"{self.store.root} is being cleaned up at the same time"
            return replace(outcome, error=MachineError(busy, hint="try again"))
        except LoraCliError as error:
            return replace(outcome, error=error)


def folders(folder: str, requests: Sequence[Request], option: str, *, by_name: bool) -> list[Path]:
    """The folder of each adapter: ``folder`` itself, or folders in it ``by_name``.

    Raises:
        UsageError: the ``option`` has no folder, or a name cannot be the folder of one adapter.
    """
    if not folder:
        raise UsageError(f"{option} needs a folder", hint=f"{option} DIRECTORY")
    root = Path(os.path.abspath(os.path.expanduser(folder)))  # noqa: PTH100, PTH111 - links stay links
    if not by_name:
        return [root] * len(requests)
    names = [item.name for item in requests]
    for name in (one.name for one in requests if one.invalid is None):
        if not re.fullmatch(NAME, name, re.ASCII) or names.count(name) > 1:
            hint = "give each a name in a manifest, with -f"
            raise UsageError(f"{name!r} cannot be the folder of one adapter in {root}", hint=hint)
    return [root / name for name in names]
