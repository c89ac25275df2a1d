"""What the rules say of an adapter, and not anew where it is all but one with a recent one: of fleets that is most.

Rules about config and tensors (LC2xx, LC3xx) that need nothing else look at nothing else: what they said of an
adapter holds for one with the same config, header and base, whatever it is called and wherever it lies.
"""

from collections.abc import Sequence

from lora_cli.core.finding import Finding, Skipped
from lora_cli.core.recent import Recent
from lora_cli.rules.case import Case
from lora_cli.rules.rule import Rule, run

Said = tuple[Finding | Skipped, ...]

_RECENT: Recent[dict[str, Said]] = Recent()


def of_config_and_tensors(rule: Rule) -> bool:
    """Whether the rule looks at config and tensors, beside a base, and at nothing else."""
    return rule.code.startswith(("LC2", "LC3")) and not {"values", "companions"} & set(rule.needs)


def said_of(rules: Sequence[Rule], case: Case) -> list[Finding | Skipped]:
    """What ``rules`` say about ``case``, in their order."""
    adapter = case.adapter
    whole = adapter.config is not None and adapter.weights_error is None and adapter.foreign is None
    if not whole or adapter.unread or len(adapter.weight_files) != 1 or case.application.adapter is not adapter:
        return [said for rule in rules for said in run(rule, case)]
    known = _RECENT.of(lambda *_: {}, adapter.config, adapter.tensors, case.base, case.base_reason)
    said: list[Finding | Skipped] = []
    for rule in rules:
        outcomes = known.get(rule.code)
        if outcomes is None:
            outcomes = tuple(run(rule, case))
            if of_config_and_tensors(rule):
                known[rule.code] = outcomes
        said += outcomes
    return said
