"""Adapters fetched, judged, loaded and proved in this process, one after the other."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

from lora_cli.fetching.batch import FetchContext
from lora_cli.finding import Deployment
from lora_cli.isolation import report_of
from lora_cli.judging.judge import fetch_one, judge_fetched
from lora_cli.judging.read import Terms
from lora_cli.refs.request import Request
from lora_cli.results import LoadReport
from lora_cli.warm.plan import LoraRequest, Plan, quiet_threads


def prove_all(
    items: Sequence[Request],
    plan: Plan,
    context: FetchContext,
    on_stage: Callable[[str, str], None],
    say: Callable[[str], None],
) -> Iterator[LoadReport]:
    """The reports of ``items``, in their order. The base is loaded for the first of them that passes.

    ``on_stage`` is called with an adapter's name and a stage that begins, ``say`` with what the user must know.

    Raises:
        LoraCliError: the base cannot be loaded.
    """
    terms = Terms(context.settings, plan.base, deployment=Deployment(plan.max_lora_rank or None))
    worker: Any = None
    with ExitStack() as opened:
        for item in items:
            on_stage(item.name, "fetch")
            fetched = fetch_one(item, context)
            on_stage(item.name, "validate")
            result = judge_fetched(fetched, terms)
            report, snapshot = report_of(item, result), result.snapshot
            if not report.error and snapshot is not None and result.adapter is not None:
                if worker is None:
                    quiet_threads()
                    on_stage("the base", "load")
                    from lora_cli.warm.worker import Worker

                    worker = opened.enter_context(closing(Worker(plan)))
                    for note in worker.notes:
                        say(note)
                lora = LoraRequest(item.name, snapshot.directory, result.adapter, snapshot.digest, item.keep_loaded)
                report = worker.load(lora, on_stage).after(report)
            yield report
