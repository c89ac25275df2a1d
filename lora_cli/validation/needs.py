"""An adapter that was judged × an engine → what it needs of the engine's slots, or why the engine cannot serve it."""

from collections.abc import Mapping
from dataclasses import dataclass

from lora_cli.core.adapter import Adapter
from lora_cli.core.engine_outcome import EngineOutcome, Outcome, Reason
from lora_cli.core.json_schema import Count
from lora_cli.core.keys import last_name
from lora_cli.core.module_facts import leaf_of
from lora_cli.engines.fit import Need
from lora_cli.engines.landing import TOWERS
from lora_cli.engines.profile import Profile
from lora_cli.engines.slots import SlotLayout
from lora_cli.rules.ranks import highest_rank
from lora_cli.validation.outcome import Checked

EXPERTS = "experts"


@dataclass(frozen=True, slots=True)
class Remark:
    """One adapter, and what is to be said about it."""

    name: str
    reason: str
    hint: str = ""
    """May be empty."""
    exit_code: Count = 0
    """What it alone would end the command with."""


def need_of(checked: Checked, profile: Profile, name: str) -> Need | Remark:
    """What the adapter called ``name`` needs, or why there are no flags with which the engine serves it."""
    if checked.error is not None:
        return Remark(name, checked.error.message, checked.error.hint, checked.error.exit_code)
    adapter = checked.adapter
    if adapter is None or not adapter.pairs or adapter.config is None:
        return Remark(name, _unreadable(checked, adapter), exit_code=1)
    outcome = outcome_on(checked)
    if outcome is not None and outcome.outcome in (Outcome.REJECTS, Outcome.CRASHES):
        reason = _worst(outcome)
        return Remark(name, f"{outcome} {outcome.outcome.phrase}: {reason.message}", reason.mend, exit_code=1)
    known = highest_rank(adapter)
    layout = profile.engine.slots
    assert known is not None
    assert layout is not None
    modules = _modules(adapter)
    targets = frozenset(target_of(module, layout) for module in modules)
    if layout.choices:
        targets |= frozenset(leaf for leaf in _configured(adapter) if leaf in layout.choices)
        if unknown := sorted((targets | set(_configured(adapter))) - layout.choices):
            title, flag = profile.engine.title, layout.flags.targets
            return Remark(name, f"{title}'s {flag} does not take {', '.join(unknown)}", exit_code=1)
    return Need(name, known[1], targets, modules)


def outcome_on(checked: Checked) -> EngineOutcome | None:
    """What the one engine that was judged by does with it."""
    return checked.verdict.engines[0] if checked.verdict is not None and checked.verdict.engines else None


def wrongly_served(checked: Checked, name: str) -> Remark | None:
    """What the engine serves otherwise than it was trained, of an adapter that it does serve."""
    outcome = outcome_on(checked)
    if outcome is None or outcome.outcome is not Outcome.SERVES_WRONG:
        return None
    return Remark(name, _worst(outcome).message, _worst(outcome).mend)


def _worst(outcome: EngineOutcome) -> Reason:
    return next(one for one in outcome.reasons if one.outcome is outcome.outcome)


def _unreadable(checked: Checked, adapter: Adapter | None) -> str:
    """Why nothing is known of its modules: what the rules say first, since they say it with a hint elsewhere."""
    errors = checked.verdict.findings if checked.verdict is not None else ()
    worst = max(errors, key=lambda finding: finding.severity, default=None)
    if worst is not None:
        return f"{worst.code}: {worst.problem.message}"
    return adapter.unread if adapter is not None and adapter.unread else "it has no factors of LoRA"


def _modules(adapter: Adapter) -> Mapping[str, tuple[int, int]]:
    """The modules with both factors, outside towers of other senses, which these engines leave out."""
    found = {}
    for module, pair in adapter.pairs.items():
        d_in, d_out = pair.widths
        if d_in is not None and d_out is not None and not TOWERS.search(module):
            found[module] = d_in, d_out
    return found


def target_of(module: str, layout: SlotLayout) -> str:
    """The name under which the engine targets an adapter's ``module``: its last one, or that of all experts."""
    leaf = leaf_of(module)
    if EXPERTS in layout.experts.values() and (f".{EXPERTS}." in module or leaf == EXPERTS):
        return EXPERTS
    return leaf


def _configured(adapter: Adapter) -> list[str]:
    """The last names of ``target_modules``, which some engines hold against those that they were started with."""
    targets = adapter.config.target_modules if adapter.config is not None else None
    return [last_name(name) for name in targets] if isinstance(targets, tuple) else []
