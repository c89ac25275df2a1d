"""LC4xx: what engines do with the adapter. Their behaviour is data, in ``lora_cli.engines``."""

from collections.abc import Iterator

from lora_cli.finding import Problem, Severity
from lora_cli.peft.match import highest_rank
from lora_cli.rules.rule import Case, rule
from lora_cli.text import cut


@rule("LC401", "rank-above-max", Severity.ERROR, needs=("config",))
def rank_above_max(case: Case) -> Iterator[Problem]:
    """A module's rank is above the ``max_lora_rank`` that the engine is started with.

    *Why is this bad?* The engine's buffers have that many rows: vLLM and SGLang refuse the adapter at load. For a named
    engine the limit is its default unless one is set; without an engine, it is only checked if one is set.

    *Fix*: start the engine with a larger ``max_lora_rank``, or train with a smaller rank.
    """
    if case.outcomes:
        yield from _findings_of(case, "LC401")
        return
    limit = case.deployment.max_lora_rank
    if limit is None or (known := highest_rank(case.adapter)) is None:
        return
    where, highest, at = known
    if highest > limit:
        yield Problem(
            f"the rank is {highest} ({cut(where)}), but max_lora_rank is {limit}",
            at,
            f"start the engine with max_lora_rank {highest} or more",
        )


def _findings_of(case: Case, code: str) -> Iterator[Problem]:
    """The reasons of the named engines' outcomes that rule ``code`` reports."""
    for engine in case.outcomes:
        for reason in engine.reasons:
            if reason.code == code:
                message = f"{engine} {reason.outcome.phrase}: {reason.message}"
                yield Problem(message, reason.at, reason.mend, engine.engine, reason.causes)


@rule("LC402", "engine-rejects", Severity.ERROR)
def engine_rejects(case: Case) -> Iterator[Problem]:
    """An engine named with ``--engine`` refuses the adapter when it loads it.

    *Why is this bad?* A request for it returns an error; if it is loaded at start-up, the engine does not start.

    *Fix*: see the finding. ``lora-cli engines NAME`` lists what each version of an engine refuses.
    """
    yield from _findings_of(case, "LC402")


@rule("LC403", "engine-crashes", Severity.ERROR)
def engine_crashes(case: Case) -> Iterator[Problem]:
    """An engine named with ``--engine`` loads the adapter and fails in the first batch that needs it.

    *Why is this bad?* The load returns 200, and then the server crashes with all its other requests.

    *Fix*: see the finding. ``lora-cli engines NAME`` lists what each version of an engine crashes on.
    """
    yield from _findings_of(case, "LC403")


@rule("LC404", "engine-serves-wrong", Severity.ERROR)
def engine_serves_wrong(case: Case) -> Iterator[Problem]:
    """An engine named with ``--engine`` serves the adapter incorrectly: with a wrong scale, or only in part.

    *Why is this bad?* Every response is 200, but the output differs from the evaluated adapter.

    *Fix*: see the finding. ``lora-cli engines NAME`` lists what each version of an engine does not read.
    """
    yield from _findings_of(case, "LC404")


@rule("LC405", "engine-unproven", Severity.WARNING)
def engine_unproven(case: Case) -> Iterator[Problem]:
    """What an engine named with ``--engine`` does is not established: for its version, that base or the adapter.

    *Why is this bad?* A version older than all known ones is validated as the oldest one, which may behave
    differently; features that were never tested or read are assumed to work. A base of an unknown family may be one
    that the engine does not serve at all.

    *Fix*: set the version that you use, or use one that ``lora-cli engines NAME`` lists; test an
    adapter with unknown features on the engine itself.
    """
    for engine in case.outcomes:
        if not engine.proven:
            yield Problem(
                f"{engine}: {engine.note}",
                case.in_weights(),
                f"see `lora-cli engines {engine.engine}` for known behaviour; test the adapter on the engine itself",
            )
