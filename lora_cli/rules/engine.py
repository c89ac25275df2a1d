"""LC4xx: what the engine that will serve the adapter allows."""

from collections.abc import Iterator

from lora_cli.core.finding import Location, Problem, Severity
from lora_cli.rules.case import Case
from lora_cli.rules.rule import rule
from lora_cli.rules.wording import clip


@rule("LC401", "rank-above-max", Severity.ERROR, needs=("config",))
def rank_above_max(case: Case) -> Iterator[Problem]:
    """A module's rank is above the ``max_lora_rank`` that the engine is started with.

    *Why is this bad?* The engine's buffers have that many rows: vLLM and SGLang refuse the adapter at load. Nothing
    is checked where no limit was given.

    *Fix*: start the engine with a larger ``max_lora_rank``, or train with a smaller rank.
    """
    config, limit = case.adapter.config, case.max_lora_rank
    if limit is None or config is None:
        return
    ranks = {f"rank_pattern {clip(pattern)}": rank for pattern, rank in config.rank_pattern.items()}
    ranks["r"] = config.r
    ranks |= {pair.module: pair.rank or 0 for pair in case.adapter.pairs.values()}
    where, highest = max(ranks.items(), key=lambda item: item[1])
    if highest > limit:
        yield Problem(
            f"the rank is {highest} ({clip(where)}), and max_lora_rank is {limit}",
            Location(config.file, "r"),
            f"start the engine with max_lora_rank {highest} or more",
        )
