"""Many adapters at once. One that fails never stops the others."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.core.reference import AdapterRef
from lora_cli.errors import LoraCliError
from lora_cli.fetching import Fetched, bring
from lora_cli.fetching.context import AdapterRequest, FetchContext
from lora_cli.fetching.progress import SILENT, Progress
from lora_cli.fetching.scheduler import Deadline
from lora_cli.fetching.side_by_side import side_by_side
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.holds import holding

if TYPE_CHECKING:
    from lora_cli.fetching.publish import Published

SLACK_S = 2.0
"""So long after its time an adapter is waited for, to leave its files well; then nobody waits for it any more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went: ``fetched`` or ``error``, after ``ms`` milliseconds."""

    request: AdapterRequest
    fetched: Fetched | None
    error: LoraCliError | None
    ms: float

    @property
    def exit_code(self) -> int:
        """What this adapter alone would end the command with."""
        return self.error.exit_code if self.error is not None else 0


@dataclass(frozen=True, slots=True)
class Handed:
    """The end of one adapter's fetch: how it went, the directory where it can be used, and what was published there."""

    outcome: Outcome
    directory: Path | None = None
    published: "Published | None" = None


def bring_all(
    requests: Sequence[AdapterRequest],
    store: Store,
    settings: Settings,
    *,
    progress: Progress = SILENT,
    link: bool = False,
) -> Iterator[Outcome]:
    """Fetches all, and gives each outcome in their order, as soon as it is known.

    ``settings.jobs`` ranges are in flight over all of them. An error that is no ``LoraCliError`` is raised here.
    """
    sources = Sources(settings, [one.asked for one in requests if isinstance(one.asked, AdapterRef)])
    with (
        holding(store) as hold,
        FetchContext(store, settings, progress, link=link, hold=hold, sources=sources) as context,
    ):

        def one(request: AdapterRequest) -> Outcome:
            began = time.perf_counter()
            fetched: Fetched | None = None
            failure: LoraCliError | None = None
            try:
                fetched = bring(request, context)
                context.total.spend(request.turn, request.name, fetched.snapshot.size)
            except LoraCliError as error:
                failure = error
            finally:
                context.total.end(request.turn)
            return Outcome(request, fetched, failure, (time.perf_counter() - began) * 1000)

        def late(request: AdapterRequest) -> Outcome:
            """What is said of an adapter whose thread hangs where no deadline reaches it."""
            context.total.end(request.turn)
            return Outcome(request, None, Deadline.of(request.name, settings).error(), (limit_s or 0.0) * 1000)

        limit_s = None if settings.adapter_timeout_s is None else settings.adapter_timeout_s + SLACK_S
        turns = [replace(request, turn=turn) for turn, request in enumerate(requests)]
        yield from side_by_side(one, turns, settings.jobs, context.scheduler.distance, limit_s, late)
