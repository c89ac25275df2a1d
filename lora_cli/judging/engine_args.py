"""Adapters that were validated × an engine → the smallest legal flags that serve them all, and what they cost."""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.names import last_name, leaf_of
from lora_cli.base.base_model import BaseModel
from lora_cli.engines.name_resolution import TOWERS
from lora_cli.engines.profile import Flags, Profile, SlotLayout
from lora_cli.engines.slot_sizing import Driver, Fit, Need, SlotLimits, Slots
from lora_cli.errors import UsageError
from lora_cli.finding import Outcome
from lora_cli.json_schema import EXCLUDED, Count
from lora_cli.judging.verdict import Checked
from lora_cli.peft.factors import EXPERTS
from lora_cli.peft.match import highest_rank

MODEL = "$MODEL"
"""The placeholder for the base in a command if its name is not known."""


@dataclass(frozen=True, slots=True)
class Located:
    """An adapter that is loaded at start-up."""

    name: str
    path: str
    pinned: bool = False
    """Whether it never leaves its slot."""


@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """The configuration with which the engine of ``profile`` is to be started.

    ``model`` is the base for its command line (empty: unknown). ``folders`` maps names of adapters to the folders that
    the engine can load them from; ``named`` says whether the names are those of a manifest, which requests will use.
    ``pinned`` adapters never leave their slot. ``rank`` is the manifest's ``max_lora_rank``, None if it has none.
    """

    profile: Profile
    model: str = ""
    revision: str = ""
    limits: SlotLimits = SlotLimits()
    folders: Mapping[str, str] = field(default_factory=dict)
    named: bool = False
    pinned: frozenset[str] = frozenset()
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Remark:
    """One adapter, and the remarks about it."""

    name: str
    reason: str
    hint: str = ""
    """May be empty."""
    exit_code: Count = 0
    """What it alone would end the command with."""
    is_served: bool = field(default=False, metadata=EXCLUDED)
    """Whether the engine serves it, and wrongly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineArgs:
    """The smallest flags with which an engine serves the adapters."""

    engine: str
    """The engine's name, as --engine-args takes it."""
    version: str | None
    """The version that was asked for, or null for the newest."""
    profile: str
    """The version whose profile was used."""
    proven: bool
    flags: tuple[str, ...] = ()
    """The words of the flags, each a separate argument; empty if no adapter is served."""
    command: str = ""
    """The whole command line for a shell; empty if no adapter is served."""
    served: tuple[str, ...]
    """The adapters that the flags serve."""
    left_out: tuple[Remark, ...]
    """Adapters that no flags would serve."""
    served_wrong: tuple[Remark, ...]
    """Adapters that are served differently from how they were trained."""
    fit: Fit | None
    """The smallest legal limits, or null if no adapter is served."""
    dtype: str | None
    """The dtype of the slots; null without a base model."""
    base_slots: Count
    """The number of slots that requests to the base model alone take."""
    drivers: tuple[Driver, ...] = ()
    """Adapters without which a slot would be smaller; the largest saving is first."""
    located: tuple[Located, ...] = ()
    """Adapters that are loaded at start-up."""
    absent: tuple[str, ...] = ()
    """Adapters of a manifest that are not on this machine."""
    notes: tuple[str, ...] = ()
    lines: tuple[str, ...] = field(default=(), metadata=EXCLUDED)
    """The command with an option on each line; empty if no adapter is served."""
    named: bool = field(metadata=EXCLUDED)
    """Whether the adapters have the names of a manifest, and so those that requests use."""

    @property
    def exit_code(self) -> int:
        """The largest exit code of adapters that are left out or would be served wrong."""
        return max((remark.exit_code for remark in (*self.left_out, *self.served_wrong)), default=0)


def engine_args(judged: Iterable[Checked], base: BaseModel | None, config: LaunchConfig) -> EngineArgs:
    """The smallest flags with which an engine serves the adapters, each validated for that engine.

    Raises:
        UsageError: the slots are too few for the pinned adapters.
    """
    profile = config.profile
    slots = Slots(profile, base)
    found = [slot_need(checked, profile) for checked in judged]
    needs = [one for one in found if isinstance(one, Need)]
    remarks = [one for one in found if isinstance(one, Remark)]
    args = EngineArgs(
        engine=profile.engine.name,
        version=profile.requested or None,
        profile=profile.version,
        proven=profile.proven,
        served=tuple(need.name for need in needs),
        left_out=tuple(one for one in remarks if not one.is_served),
        served_wrong=tuple(one for one in remarks if one.is_served),
        fit=None,
        dtype=base.served_dtype if base is not None else None,
        base_slots=slots.layout.base_slots,
        named=config.named,
    )
    return _with_flags(args, needs, slots, config) if needs else args


def _with_flags(args: EngineArgs, needs: Sequence[Need], slots: Slots, config: LaunchConfig) -> EngineArgs:
    """``args`` with the flags for ``needs`` (at least one).

    Raises:
        UsageError: the slots are too few for the pinned adapters, and the base.
    """
    limit, least = config.limits.slots, config.limits.pinned + slots.layout.base_slots
    if limit is not None and limit < least:
        base = ", and requests to the base use one slot" if slots.layout.base_slots else ""
        raise UsageError(
            f"{limit} slots are too few: {config.limits.pinned} adapters are pinned{base}",
            hint=f"set max_loras: {least} in the manifest, or pin fewer",
        )
    fit = slots.fit(needs, config.limits)
    located, absent = _located(needs, fit, slots, config)
    flags = slots.layout.flags
    launch, options = launch_words(flags, config.model, config.revision), options_of(flags, fit, located)
    words = tuple(word for option in options for word in option)
    return replace(
        args,
        flags=words,
        command=for_shell([*launch, *words]),
        fit=fit,
        drivers=slots.drivers(needs, config.limits),
        located=located,
        absent=absent,
        notes=tuple(_notes(slots, fit, config)),
        lines=tuple(command_lines(flags, launch, options)),
    )


def _located(
    needs: Sequence[Need], fit: Fit, slots: Slots, config: LaunchConfig
) -> tuple[tuple[Located, ...], tuple[str, ...]]:
    """The adapters that the engine can load at start-up, and the names of those that are not on this machine."""
    if not config.named:
        return (), ()
    pins = slots.layout.flags.pins
    names = [need.name for need in needs]
    found = [
        Located(name, config.folders[name], pins and name in config.pinned) for name in names if name in config.folders
    ]
    absent = tuple(name for name in names if name not in config.folders)
    # SGLang does not start with more adapters than max_loaded_loras; vLLM evicts the oldest.
    return (() if pins and len(found) > fit.max_cpu_loras else tuple(found)), absent


def _notes(slots: Slots, fit: Fit, config: LaunchConfig) -> Iterable[str]:
    engine, base = slots.profile.engine, slots.base
    if slots.profile.note:
        yield slots.profile.note
    if config.rank is not None and config.rank != fit.max_lora_rank:
        enough = "is needed" if config.rank < fit.max_lora_rank else "is enough"
        yield f"the manifest's max_lora_rank is {config.rank}, but {fit.max_lora_rank} {enough}"
    if base is not None and base.model_type not in slots.layout.compared:
        yield (
            f"the sizes follow {engine.title}'s general formula, which was not compared with its buffers for "
            f"{base.model_type or 'this family'}"
        )


def slot_need(checked: Checked, profile: Profile) -> Need | Remark:
    """The slot that an adapter needs, or why the engine does not serve it as trained."""
    name = checked.name
    if checked.error is not None:
        return Remark(name, checked.error.message, checked.error.hint, checked.error.exit_code)
    adapter = checked.adapter
    if adapter is None or not adapter.pairs or adapter.config is None:
        return Remark(name, _unreadable(checked, adapter), exit_code=1)
    engine = next(iter(checked.verdict.engines), None) if checked.verdict is not None else None
    outcome = engine.outcome if engine is not None else Outcome.OK
    worst = next((one for one in engine.reasons if one.outcome is outcome), None) if engine is not None else None
    if worst is not None and outcome in (Outcome.REJECTS, Outcome.CRASHES):
        return Remark(name, f"{engine} {outcome.phrase}: {worst.message}", worst.mend, exit_code=1)
    known, layout = highest_rank(adapter), profile.engine.slots
    assert known is not None
    assert layout is not None
    modules = _modules(adapter)
    targets = frozenset(target_of(module, layout) for module in modules)
    if layout.choices:  # the engine also compares the config with its flags
        listed = adapter.config.target_modules if isinstance(adapter.config.target_modules, tuple) else ()
        configured = frozenset(map(last_name, listed))
        if unknown := sorted((targets | configured) - layout.choices):
            title, flag = profile.engine.title, layout.flags.targets
            return Remark(name, f"{title}'s {flag} does not accept {', '.join(unknown)}", exit_code=1)
        targets |= configured
    if worst is not None and outcome is Outcome.SERVES_WRONG:
        return Remark(name, worst.message, worst.mend, exit_code=1, is_served=True)
    return Need(name, known[1], targets, modules)


def _unreadable(checked: Checked, adapter: Adapter | None) -> str:
    """Why its modules are unknown: the worst finding of the rules if there is one."""
    worst = max(checked.findings, key=lambda finding: finding.severity, default=None)
    if worst is not None:
        return f"{worst.code}: {worst.problem.message}"
    return adapter.unread if adapter is not None and adapter.unread else "it has no LoRA factors"


def _modules(adapter: Adapter) -> Mapping[str, tuple[int, int]]:
    """The modules with both factors, without those of towers, which these engines ignore."""
    found = {}
    for module, pair in adapter.pairs.items():
        d_in, d_out = pair.widths
        if d_in is not None and d_out is not None and not TOWERS.search(module):
            found[module] = d_in, d_out
    return found


def target_of(module: str, layout: SlotLayout) -> str:
    """The name under which the engine targets ``module``: its last name, or that of all experts."""
    leaf = leaf_of(module)
    if EXPERTS in layout.experts.values() and (f".{EXPERTS}." in module or leaf == EXPERTS):
        return EXPERTS
    return leaf


def options_of(flags: Flags, fit: Fit, adapters: Sequence[Located]) -> tuple[tuple[str, ...], ...]:
    """Each option with its values, in the order for the command line."""
    options: list[tuple[str, ...]] = [
        (flags.enable,),
        (flags.rank, str(fit.max_lora_rank)),
        (flags.slots, str(fit.max_loras)),
        (flags.memory, str(fit.max_cpu_loras)),
    ]
    if fit.lora_target_modules is not None:
        options.append((flags.targets, *fit.lora_target_modules))
    if flags.strict:
        options.append((flags.strict,))
    if adapters:
        options.append((flags.adapters, *(_adapter_word(flags, one) for one in adapters)))
    return tuple(options)


def _adapter_word(flags: Flags, one: Located) -> str:
    """``NAME=PATH``, or JSON if the path has a comma or the adapter is pinned."""
    if "," not in one.path and not one.pinned:
        return f"{one.name}={one.path}"
    name, path = flags.keys
    return json.dumps({name: one.name, path: one.path, **({"pinned": True} if one.pinned else {})})


def launch_words(flags: Flags, model: str, revision: str) -> tuple[str, ...]:
    """The command before the options of LoRA; ``model`` is empty if the base's name is unknown."""
    words = [model or MODEL if word == "{base}" else word for word in flags.launch.split()]
    return (*words, flags.revision, revision) if revision else tuple(words)


def command_lines(flags: Flags, launch: Sequence[str], options: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of the command, with one option on each; together they are one command for a shell."""
    lines = [for_shell(launch)]
    for flag, *values in options:
        if flag == flags.adapters:
            lines += [f"  {flag}", *(f"    {for_shell([value])}" for value in values)]
        else:
            lines.append(f"  {for_shell([flag, *values])}")
    yield from (f"{line} \\" for line in lines[:-1])
    yield lines[-1]


def for_shell(words: Sequence[str]) -> str:
    """``words`` quoted for a shell, with the placeholder for the base as a variable."""
    return " ".join(f'"{MODEL}"' if word == MODEL else shlex.quote(word) for word in words)
