"""Adapters judged for an engine → the smallest legal flags that serve them all, and the memory that takes at least."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lora_cli.adapter.names import last_name, leaf_of
from lora_cli.engines.name_resolution import TOWERS
from lora_cli.engines.profile import Profile, SlotLayout
from lora_cli.errors import UsageError
from lora_cli.finding import Outcome
from lora_cli.json_schema import Count, PositiveCount
from lora_cli.judging.result import Result
from lora_cli.peft.match import highest_rank
from lora_cli.peft.targets import EXPERTS

HALF_BYTES = 2
"""Bytes of an element of the dtypes that engines serve in."""

MODEL = '"$MODEL"'
"""The variable for the base in a command if its name is not known."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How the engine of ``profile`` is to be started.

    ``model`` is the base for its command line (empty: unknown). ``named`` says whether the adapters have the names of a
    manifest, which requests will use; ``pinned`` ones never leave their slot. The limits are the manifest's.
    """

    profile: Profile
    model: str = ""
    revision: str = ""
    named: bool = False
    pinned: frozenset[str] = frozenset()
    max_lora_rank: int | None = None
    max_loras: int | None = None
    max_cpu_loras: int | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """One adapter that the engine serves: its rank, the names that target its modules, and d_in + d_out of each."""

    rank: int
    targets: tuple[str, ...]
    widths: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Located:
    """An adapter that is loaded at start-up."""

    name: str
    path: str
    pinned: bool = False
    """Whether it never leaves its slot."""


@dataclass(frozen=True, slots=True)
class Remark:
    """One adapter, and the remarks about it."""

    name: str
    reason: str
    hint: str = ""
    """May be empty."""
    exit_code: Count = 1
    """What it alone would end the command with."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The smallest legal limits of an engine for some adapters, and what its slots take at least."""

    max_lora_rank: PositiveCount
    lora_target_modules: tuple[str, ...]
    max_loras: PositiveCount
    """The number of slots on the GPU, including those of the base model."""
    max_cpu_loras: PositiveCount
    """The number of adapters in the machine's memory."""
    slot_bytes: Count
    """The least bytes of one slot: the adapters' own modules at that rank, in half precision."""
    total_bytes: Count
    """The least bytes of all slots."""


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
    flags: tuple[str, ...]
    """The words of the flags, each a separate argument; empty if no adapter is served."""
    command: str
    """The whole command for a shell, with an option on each line; empty if no adapter is served."""
    served: tuple[str, ...]
    """The adapters that the flags serve."""
    left_out: tuple[Remark, ...]
    """Adapters that no flags would serve."""
    served_wrong: tuple[Remark, ...]
    """Adapters that are served differently from how they were trained."""
    fit: Fit | None
    """The smallest legal limits, or null if no adapter is served."""
    base_slots: Count
    """The number of slots that requests to the base model alone take."""
    located: tuple[Located, ...]
    """Adapters that are loaded at start-up."""
    absent: tuple[str, ...]
    """Adapters of a manifest that are not on this machine."""
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """The largest exit code of adapters that are left out or would be served wrong."""
        return max((remark.exit_code for remark in (*self.left_out, *self.served_wrong)), default=0)


def engine_args(results: Iterable[Result], launch: Launch) -> EngineArgs:
    """The smallest flags with which an engine serves the adapters, each judged for that engine.

    Raises:
        UsageError: the manifest's slots are too few for the pinned adapters.
    """
    profile, layout = launch.profile, launch.profile.engine.slots
    assert layout is not None
    found = [(one, _need(one, profile, layout)) for one in results]
    needs = {one.name: need for one, need in found if isinstance(need, Need)}
    remarks = [(one, remark) for one, remark in found if isinstance(remark, Remark)]
    wrong = {one.name for one, _ in remarks if one.engines and one.engines[0].outcome is Outcome.SERVES_WRONG}
    fit = _fit(list(needs.values()), launch, layout) if needs else None
    here = {one.name: str(one.directory.absolute()) for one, _ in found if one.directory is not None}
    paths = {name: here[name] for name in needs if launch.named and here.get(name, "\0").isprintable()}
    located: tuple[Located, ...] = ()
    # SGLang does not start with more adapters than max_loaded_loras; vLLM evicts the oldest.
    if fit is not None and not (layout.flags.pins and len(paths) > fit.max_cpu_loras):
        pinned = launch.pinned if layout.flags.pins else frozenset()
        located = tuple(Located(name, path, name in pinned) for name, path in paths.items())
    options = _options(fit, layout, located) if fit is not None else []
    notes = [profile.note] if profile.note else []
    if fit is not None and launch.max_lora_rank not in {None, fit.max_lora_rank}:
        enough = "is needed" if launch.max_lora_rank < fit.max_lora_rank else "is enough"
        notes.append(f"the manifest's max_lora_rank is {launch.max_lora_rank}, but {fit.max_lora_rank} {enough}")
    return EngineArgs(
        engine=profile.engine.name,
        version=profile.requested or None,
        profile=profile.version,
        proven=profile.proven,
        flags=tuple(word for option in options for word in option),
        command=_command(launch, layout, options) if options else "",
        served=tuple(needs),
        left_out=tuple(remark for _, remark in remarks if remark.name not in wrong),
        served_wrong=tuple(remark for _, remark in remarks if remark.name in wrong),
        fit=fit,
        base_slots=layout.base_slots,
        located=located,
        absent=tuple(name for name in needs if launch.named and name not in paths),
        notes=tuple(notes),
    )


def _need(one: Result, profile: Profile, layout: SlotLayout) -> Need | Remark:
    """What an adapter needs of the engine's slots, or why the engine does not serve it as trained."""
    adapter = one.adapter
    if one.error is not None:
        return Remark(one.name, one.error.message, one.error.hint, one.error.exit_code)
    if adapter is None or not adapter.pairs or adapter.config is None:
        worst = max(one.findings, key=lambda finding: finding.severity, default=None)
        unread = adapter.unread if adapter is not None else ""
        why = f"{worst.code}: {worst.problem.message}" if worst is not None else unread or "it has no LoRA factors"
        return Remark(one.name, why)
    engine = one.engines[0]
    worst = next((each for each in one.findings if each.effects.get(engine.asked) is engine.outcome), None)
    if worst is not None and engine.fails:
        return Remark(one.name, worst.problem.message, worst.problem.hint)
    widths, targets = {}, dict[str, None]()
    for module, pair in adapter.pairs.items():
        d_in, d_out = pair.widths
        if d_in is not None and d_out is not None and not TOWERS.search(module):  # engines ignore towers
            widths[module], leaf = d_in + d_out, leaf_of(module)
            of_experts = layout.experts_as_one and (f".{EXPERTS}." in module or leaf == EXPERTS)
            targets[EXPERTS if of_experts else leaf] = None
    if layout.choices:  # the engine also compares the config with its flags
        listed = adapter.config.target_modules if isinstance(adapter.config.target_modules, tuple) else ()
        targets |= dict.fromkeys(map(last_name, listed))
        if unknown := sorted(targets.keys() - layout.choices):
            title, flag = profile.engine.title, layout.flags.targets
            return Remark(one.name, f"{title}'s {flag} does not accept {', '.join(unknown)}")
    highest = highest_rank(adapter)
    assert highest is not None
    return Need(highest[1], tuple(targets), widths)


def _fit(needs: Sequence[Need], launch: Launch, layout: SlotLayout) -> Fit:
    """The smallest limits that serve all of ``needs``.

    Raises:
        UsageError: the slots are too few for the pinned adapters, and the base.
    """
    least = len(launch.pinned) + layout.base_slots
    if launch.max_loras is not None and launch.max_loras < least:
        base = ", and requests to the base use one slot" if layout.base_slots else ""
        raise UsageError(
            f"{launch.max_loras} slots are too few: {len(launch.pinned)} adapters are pinned{base}",
            hint=f"set max_loras: {least} in the manifest, or pin fewer",
        )
    highest, allowed = max(need.rank for need in needs), launch.profile.engine.ranks
    rank = next(rank for rank in allowed if rank >= highest) if allowed else highest
    every = len(needs) + layout.base_slots
    slots = min(every, launch.max_loras or every)
    widest: dict[str, int] = {}
    for module, width in (pair for need in needs for pair in need.widths.items()):
        widest[module] = max(width, widest.get(module, 0))
    one = HALF_BYTES * rank * sum(widest.values())
    targets = tuple(dict.fromkeys(name for need in needs for name in need.targets))
    memory = max(slots, min(len(needs), launch.max_cpu_loras or len(needs)))
    return Fit(rank, targets, slots, memory, one, slots * one)


def _options(fit: Fit, layout: SlotLayout, located: Sequence[Located]) -> list[tuple[str, ...]]:
    """Each option with its values, in the order for the command line; an adapter is ``NAME=PATH``, else JSON."""
    flags = layout.flags
    numbers = {flags.rank: fit.max_lora_rank, flags.slots: fit.max_loras, flags.memory: fit.max_cpu_loras}
    adapters, (name, path) = [], flags.keys
    for one in located:
        document = {name: one.name, path: one.path, **({"pinned": True} if one.pinned else {})}
        plain = "," not in one.path and not one.pinned
        adapters.append(f"{one.name}={one.path}" if plain else json.dumps(document))
    return [
        (flags.enable,),
        *((flag, str(number)) for flag, number in numbers.items()),
        (flags.targets, *fit.lora_target_modules),
        *([(flags.strict,)] if flags.strict else []),
        *([(flags.adapters, *adapters)] if adapters else []),
    ]


def _command(launch: Launch, layout: SlotLayout, options: Iterable[Sequence[str]]) -> str:
    """The command for a shell, with an option on each line; an unknown base is a variable of the shell."""
    base = shlex.quote(launch.model) if launch.model else MODEL
    revision = f" {layout.flags.revision} {shlex.quote(launch.revision)}" if launch.revision else ""
    lines = [layout.flags.launch.format(base=base) + revision]
    for flag, *values in options:
        if flag == layout.flags.adapters:
            lines += [f"  {flag}", *(f"    {shlex.quote(value)}" for value in values)]
        else:
            lines.append(f"  {shlex.join([flag, *values])}")
    return " \\\n".join(lines)
