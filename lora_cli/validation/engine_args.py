"""Adapters that were judged × an engine → the smallest legal flags that serve them all, and what they cost."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lora_cli.core.base_model import BaseModel
from lora_cli.engines.fit import Driver, Fit, Limits, Need, Slots
from lora_cli.engines.launch import Located, launch_words, options_of
from lora_cli.engines.profile import Profile
from lora_cli.errors import UsageError
from lora_cli.validation.needs import Remark, need_of, wrongly_served
from lora_cli.validation.outcome import Checked


@dataclass(frozen=True, slots=True)
class Deployed:
    """How the engine is to be started: what the base is called for it (empty: nobody knows), and with which limits.

    ``folders`` maps the adapters' names to the folders that an engine can load them from; ``named`` says whether their
    names are those of a manifest, and so those that requests will use. ``pinned`` never leave their slot. ``rank`` is
    what the manifest says that ``max_lora_rank`` is, None where it says nothing.
    """

    model: str = ""
    revision: str = ""
    tp: int = 1
    limits: Limits = Limits()
    folders: Mapping[str, str] = field(default_factory=dict)
    named: bool = False
    pinned: frozenset[str] = frozenset()
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class EngineArgs:
    """The flags for one engine, and what they are for.

    ``served`` are the adapters that they serve, ``left_out`` those that no flags would; ``wrong`` are served, otherwise
    than they were trained, and are not loaded at start-up. ``fit`` is None where none is left. ``located`` are loaded
    at start-up, ``absent`` have no folder that an engine could load them from. ``notes`` are sentences about the whole.
    """

    profile: Profile
    base: BaseModel | None
    deployed: Deployed
    served: tuple[str, ...] = ()
    left_out: tuple[Remark, ...] = ()
    wrong: tuple[Remark, ...] = ()
    fit: Fit | None = None
    drivers: tuple[Driver, ...] = ()
    located: tuple[Located, ...] = ()
    absent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[tuple[str, ...], ...]:
        """Each option with its values; none where no adapter is served."""
        layout = self.profile.engine.slots
        assert layout is not None
        return options_of(layout.flags, self.fit, self.deployed.tp, self.located) if self.fit is not None else ()

    @property
    def launch(self) -> tuple[str, ...]:
        """The words of the command before its options."""
        layout = self.profile.engine.slots
        assert layout is not None
        return launch_words(layout.flags, self.deployed.model, self.deployed.revision)

    @property
    def exit_code(self) -> int:
        """The worst of what is left out."""
        return max((remark.exit_code for remark in self.left_out), default=0)


def engine_args(
    judged: Iterable[tuple[str, Checked]], profile: Profile, base: BaseModel | None, deployed: Deployed
) -> EngineArgs:
    """The smallest flags with which the engine of ``profile`` serves the adapters, each judged by that engine.

    Raises:
        UsageError: limits that cannot be kept, or a tensor parallelism that the base does not have.
    """
    slots = Slots(profile, base, deployed.tp)
    needs: list[Need] = []
    left_out: list[Remark] = []
    wrong: list[Remark] = []
    for name, checked in judged:
        need = need_of(checked, profile, base, name)
        if isinstance(need, Remark):
            left_out.append(need)
            continue
        needs.append(need)
        if (remark := wrongly_served(checked, name)) is not None:
            wrong.append(remark)
    if not needs:
        return EngineArgs(profile, base, deployed, left_out=tuple(left_out))
    _check_pinned(slots, deployed)
    fit = slots.fit(needs, deployed.limits)
    as_trained = {need.name for need in needs} - {remark.name for remark in wrong}
    located, absent = _located([need for need in needs if need.name in as_trained], fit, slots, deployed)
    return EngineArgs(
        profile=profile,
        base=base,
        deployed=deployed,
        served=tuple(need.name for need in needs),
        left_out=tuple(left_out),
        wrong=tuple(wrong),
        fit=fit,
        drivers=slots.drivers(needs, deployed.limits),
        located=located,
        absent=absent,
        notes=tuple(_notes(slots, fit, deployed)),
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
    return (() if pins and len(found) > fit.memory else tuple(found)), absent


def _notes(slots: Slots, fit: Fit, deployed: Deployed) -> Iterable[str]:
    engine, base = slots.profile.engine, slots.base
    if slots.profile.note:
        yield slots.profile.note
    if deployed.rank is not None and deployed.rank != fit.rank:
        enough = "is needed" if deployed.rank < fit.rank else "is enough"
        yield f"the manifest's max_lora_rank is {deployed.rank}, and {fit.rank} {enough}"
    if base is not None and base.model_type not in slots.layout.compared:
        yield (
            f"the bytes are by {engine.title}'s general formula: its buffers for {base.model_type or 'this family'} "
            "were not compared with it"
        )
