"""LC5xx: the values of the tensors."""

from collections.abc import Iterator

from lora_cli.core.finding import Location, Problem, Severity
from lora_cli.rules.case import Case
from lora_cli.rules.rule import rule
from lora_cli.rules.wording import clip, count, names


@rule("LC501", "nonfinite-values", Severity.ERROR, needs=("weights", "values"))
def nonfinite_values(case: Case) -> Iterator[Problem]:
    """A tensor holds NaN or infinity.

    *Why is this bad?* Every engine loads it without a word. One NaN makes all of a request's logits NaN, and in a
    shared batch or a quantised cache it need not stay with that request.

    *Fix*: the training diverged; take an earlier checkpoint.
    """
    assert case.stats is not None
    bad = [name for name, values in case.stats.items() if values.nonfinite]
    if bad:
        yield Problem(
            f"{count(len(bad), 'tensor holds', 'tensors hold')} NaN or infinity: {names(bad)}",
            Location(case.weights_file, clip(bad[0])),
            "the training diverged: take an earlier checkpoint",
        )


@rule("LC502", "zero-b", Severity.WARNING, needs=("weights", "values"))
def zero_b(case: Case) -> Iterator[Problem]:
    """B is zero in every module: the adapter changes nothing.

    *Why is this bad?* LoRA starts with B at zero. An adapter that was saved before training, or whose training never
    reached it, loads and serves as the base model.

    *Fix*: save the adapter after training, and check that its parameters were in the optimiser.
    """
    assert case.stats is not None
    factors = [pair.b.name for pair in case.adapter.pairs.values() if pair.b is not None]
    scanned = [name for name in factors if name in case.stats]
    if scanned and all(case.stats[name].zero for name in scanned):
        yield Problem(
            f"B is zero in {'the only module' if len(scanned) == 1 else f'all {len(scanned)} modules'}: "
            "the adapter changes nothing",
            Location(case.weights_file, clip(scanned[0])),
            "it looks untrained: save it after training, and check that its parameters were in the optimiser",
        )
