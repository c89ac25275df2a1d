"""LC4xx: what the engines that will serve the adapter do with it. Their behaviour is data, in ``lora_cli.engines``."""

from collections.abc import Iterator

from lora_cli.core.finding import Location, Problem, Severity
from lora_cli.core.text import cut
from lora_cli.rules.case import Case
from lora_cli.rules.ranks import highest_rank
from lora_cli.rules.rule import rule


@rule("LC401", "rank-above-max", Severity.ERROR, needs=("config",))
def rank_above_max(case: Case) -> Iterator[Problem]:
    """A module's rank is above the ``max_lora_rank`` that the engine is started with.

    *Why is this bad?* The engine's buffers have that many rows: vLLM and SGLang refuse the adapter at load. Of a named
    engine the limit is its own unless one was given; without an engine nothing is checked where no limit was given.

    *Fix*: start the engine with a larger ``max_lora_rank``, or train with a smaller rank.
    """
    if case.served:
        yield from _said_of(case, "LC401")
        return
    limit = case.max_lora_rank
    if limit is None or (known := highest_rank(case.adapter)) is None:
        return
    where, highest, at = known
    if highest > limit:
        yield Problem(
            f"the rank is {highest} ({cut(where)}), and max_lora_rank is {limit}",
            at,
            f"start the engine with max_lora_rank {highest} or more",
        )


def _said_of(case: Case, code: str) -> Iterator[Problem]:
    """What the named engines do that stands under ``code``."""
    for engine in case.served:
        for reason in engine.reasons:
            if reason.code == code:
                said = f"{engine} {reason.outcome.phrase}: {reason.message}"
                yield Problem(said, reason.at, reason.mend, engine.engine)


@rule("LC402", "engine-rejects", Severity.ERROR)
def engine_rejects(case: Case) -> Iterator[Problem]:
    """An engine named with ``--engine`` refuses the adapter when it loads it.

    *Why is this bad?* A request for it gets an error; where it is loaded at start-up, the engine does not start.

    *Fix*: as the finding says. ``lora-cli engines NAME`` lists what each version of an engine refuses.
    """
    yield from _said_of(case, "LC402")


@rule("LC403", "engine-crashes", Severity.ERROR)
def engine_crashes(case: Case) -> Iterator[Problem]:
    """An engine named with ``--engine`` takes the adapter and fails in the first batch that needs it.

    *Why is this bad?* The load was answered with 200, and then the server goes down, with all its other requests.

    *Fix*: as the finding says. ``lora-cli engines NAME`` lists what each version of an engine crashes on.
    """
    yield from _said_of(case, "LC403")


@rule("LC404", "engine-serves-wrong", Severity.ERROR)
def engine_serves_wrong(case: Case) -> Iterator[Problem]:
    """An engine named with ``--engine`` serves the adapter otherwise than it was trained: scaled wrongly, or in part.

    *Why is this bad?* Every answer is 200, and none is what was evaluated.

    *Fix*: as the finding says. ``lora-cli engines NAME`` lists what each version of an engine does not read.
    """
    yield from _said_of(case, "LC404")


@rule("LC405", "engine-unproven", Severity.WARNING)
def engine_unproven(case: Case) -> Iterator[Problem]:
    """What an engine named with ``--engine`` does is not established: for its version, or for something in the adapter.

    *Why is this bad?* A version older than all that were read is judged by the oldest one, which may take or refuse
    other things; what was never read or run is taken for right.

    *Fix*: name the version that serves, or serve with one of those that ``lora-cli engines NAME`` lists; try an
    adapter with what is not established on the engine itself.
    """
    for engine in case.served:
        if not engine.proven:
            yield Problem(
                f"{engine}: {engine.note}",
                Location(case.weights_file),
                f"`lora-cli engines {engine.engine}` says what is known; try the adapter on the engine itself",
            )


@rule("LC406", "served-base-name", Severity.WARNING, needs=("config",))
def served_base_name(case: Case) -> Iterator[Problem]:
    """``base_model_name_or_path`` is not what vLLM calls the base that it serves.

    *Why is this bad?* vLLM's filesystem resolver takes an adapter only where the two are equal letter by letter, and
    answers 404 for it otherwise. An adapter that is loaded by its path is not concerned.

    *Fix*: ``lora-cli fetch --publish DIR --fix-base NAME`` writes the name into the published copy.
    """
    config, deployment = case.adapter.config, case.deployment
    served = deployment.served_model_name if deployment is not None else None
    if config is None or served is None or all(engine.engine != "vllm" for engine in case.served):
        return
    if config.base_model_name_or_path != served:
        yield Problem(
            f"base_model_name_or_path is {cut(str(config.base_model_name_or_path))}, and the base is served as "
            f"{cut(served)}: vLLM's filesystem resolver does not take the adapter",
            Location(config.file, "base_model_name_or_path"),
            "`lora-cli fetch --publish DIR --fix-base NAME` writes the name into the published copy",
        )
