"""Adapters that were judged × an engine → the smallest legal flags that serve them all, and what they cost."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lora_cli.core.base_model import BaseModel
from lora_cli.core.json_schema import EXCLUDED, Count, PositiveCount
from lora_cli.engines.fit import Driver, Fit, Limits, Need, Slots
from lora_cli.engines.launch import Located, command_lines, for_shell, launch_words, options_of
from lora_cli.engines.profile import Profile
from lora_cli.errors import UsageError
from lora_cli.validation.needs import Remark, need_of, wrongly_served
from lora_cli.validation.outcome import Checked


@dataclass(frozen=True, slots=True)
class Deployed:
    """How the engine of ``profile`` is to be started, and with which limits.

    ``model`` is what the base is called for it (empty: nobody knows). ``folders`` maps the adapters' names to the
    folders that an engine can load them from; ``named`` says whether their names are those of a manifest, and so those
    that requests will use. ``pinned`` never leave their slot. ``rank`` is what the manifest says that ``max_lora_rank``
    is, None where it says nothing.
    """

    profile: Profile
    model: str = ""
    revision: str = ""
    tp: int = 1
    limits: Limits = Limits()
    folders: Mapping[str, str] = field(default_factory=dict)
    named: bool = False
    pinned: frozenset[str] = frozenset()
    rank: int | None = None


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
    """The words of the flags, each a separate argument; empty where no adapter is served."""
    command: str = ""
    """The whole command line for a shell; empty where no adapter is served."""
    tp: PositiveCount
    served: tuple[str, ...]
    """The adapters that the flags serve."""
    left_out: tuple[Remark, ...]
    """Adapters that no flags would serve."""
    served_wrong: tuple[Remark, ...]
    """Adapters that are served differently from how they were trained."""
    fit: Fit | None
    """The smallest legal limits, or null where no adapter is served."""
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
    """The command with an option on each line; empty where no adapter is served."""
    named: bool = field(metadata=EXCLUDED)
    """Whether the adapters have the names of a manifest, and so those that requests use."""

    @property
    def exit_code(self) -> int:
        """The worst of what is left out; 1 where every adapter would be served wrong."""
        return max((remark.exit_code for remark in self.left_out), default=int(self.fit is None))


def engine_args(judged: Iterable[tuple[str, Checked]], base: BaseModel | None, deployed: Deployed) -> EngineArgs:
    """The smallest flags with which an engine serves the adapters, each judged by that engine.

    Raises:
        UsageError: limits that cannot be kept, or a tensor parallelism that the base does not have.
    """
    profile = deployed.profile
    slots = Slots(profile, base, deployed.tp)
    needs: list[Need] = []
    left_out: list[Remark] = []
    wrong: list[Remark] = []
    for name, checked in judged:
        need = need_of(checked, profile, name)
        if isinstance(need, Remark):
            left_out.append(need)
        elif (remark := wrongly_served(checked, name)) is not None:
            wrong.append(remark)
        else:
            needs.append(need)
    args = EngineArgs(
        engine=profile.engine.name,
        version=profile.asked or None,
        profile=profile.version,
        proven=profile.proven,
        tp=deployed.tp,
        served=tuple(need.name for need in needs),
        left_out=tuple(left_out),
        served_wrong=tuple(wrong),
        fit=None,
        dtype=base.served_dtype if base is not None else None,
        base_slots=slots.layout.base_slots,
        named=deployed.named,
    )
    return _fitted(args, needs, slots, deployed) if needs else args


def _fitted(args: EngineArgs, needs: Sequence[Need], slots: Slots, deployed: Deployed) -> EngineArgs:
    """``args`` with the flags for ``needs``, of which there is at least one."""
    _check_pinned(slots, deployed)
    fit = slots.fit(needs, deployed.limits)
    located, absent = _located(needs, fit, slots, deployed)
    flags = slots.layout.flags
    launch, options = launch_words(flags, deployed.model, deployed.revision), options_of(flags, fit, args.tp, located)
    words = tuple(word for option in options for word in option)
    return replace(
        args,
        flags=words,
        command=for_shell([*launch, *words]),
        fit=fit,
        drivers=slots.drivers(needs, deployed.limits),
        located=located,
        absent=absent,
        notes=tuple(_notes(slots, fit, deployed)),
        lines=tuple(command_lines(flags, launch, options)),
    )


def _check_pinned(slots: Slots, deployed: Deployed) -> None:
    limit, least = deployed.limits.slots, deployed.limits.pinned + slots.layout.base_slots
    if limit is not None and limit < least:
        base = ", and the base takes one" if slots.layout.base_slots else ""
        raise UsageError(
            f"{limit} slots are too few: {deployed.limits.pinned} adapters are pinned{base}",
            hint=f"--max-loras {least}, or pin fewer",
        )


def _located(
    needs: Sequence[Need], fit: Fit, slots: Slots, deployed: Deployed
) -> tuple[tuple[Located, ...], tuple[str, ...]]:
    """The adapters that the engine can load when it starts, and those that it cannot find yet."""
    if not deployed.named:
        return (), ()
    pins = slots.layout.flags.pins
    names = [need.name for need in needs]
    found = [
        Located(name, deployed.folders[name], pins and name in deployed.pinned)
        for name in names
        if name in deployed.folders
    ]
    absent = tuple(name for name in names if name not in deployed.folders)
    # SGLang does not start with more of them than it may hold; vLLM lets the oldest go.
    return (() if pins and len(found) > fit.max_cpu_loras else tuple(found)), absent


def _notes(slots: Slots, fit: Fit, deployed: Deployed) -> Iterable[str]:
    engine, base = slots.profile.engine, slots.base
    if slots.profile.note:
        yield slots.profile.note
    if deployed.rank is not None and deployed.rank != fit.max_lora_rank:
        enough = "is needed" if deployed.rank < fit.max_lora_rank else "is enough"
        yield f"the manifest's max_lora_rank is {deployed.rank}, and {fit.max_lora_rank} {enough}"
    if base is not None and base.model_type not in slots.layout.compared:
        yield (
            f"the bytes are by {engine.title}'s general formula: its buffers for {base.model_type or 'this family'} "
            "were not compared with it"
        )
