"""Adapters judged for an engine → the smallest legal flags that serve them all, and the memory that takes at least."""

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_cli.adapter.adapter import Adapter, last_name, leaf_of
from lora_cli.errors import UsageError
from lora_cli.json_schema import Count
from lora_cli.judging.result import Result
from lora_cli.peft.match import highest_rank
from lora_cli.peft.targets import EXPERTS

if TYPE_CHECKING:
    from lora_cli.documents.manifest import EngineSpec
    from lora_cli.engines import Flags, Profile


@dataclass(frozen=True, slots=True)
class Remark:
    """One adapter, and why the engine does not serve it as it was trained."""

    name: str
    reason: str
    hint: str = ""
    """May be empty."""
    exit_code: Count = 1
    """What it alone would end the command with."""


@dataclass(slots=True, kw_only=True)
class EngineArgs:
    """The smallest flags with which an engine serves the adapters; empty and 0 if it serves none."""

    engine: str
    """The engine's name, as --engine-args takes it."""
    version: str
    """The version whose flags these are."""
    flags: tuple[str, ...] = ()
    """The words of the flags, each a separate argument."""
    command: str = ""
    """The whole command for a shell, with an option on each line."""
    max_lora_rank: Count = 0
    lora_target_modules: tuple[str, ...] = ()
    max_loras: Count = 0
    """The number of slots on the GPU, including those of the base model."""
    max_cpu_loras: Count = 0
    """The number of adapters in the machine's memory."""
    slot_bytes: Count = 0
    """The least bytes of one slot: the adapters' own modules at that rank, in half precision."""
    served: tuple[str, ...]
    """The adapters that the flags serve."""
    left_out: tuple[Remark, ...]
    """Adapters that no flags would serve as they were trained."""
    absent: tuple[str, ...]
    """Adapters of a manifest that are not on this machine."""
    note: str
    """May be empty."""

    @property
    def exit_code(self) -> int:
        """0 where flags serve some adapters and all were read, else the largest exit code of the others."""
        worst = max((remark.exit_code for remark in self.left_out), default=0)
        return 0 if self.served and worst == 1 else worst


def engine_args(
    results: Iterable[Result],
    profile: "Profile",
    model: Sequence[str] = (),
    limits: "EngineSpec | None" = None,
    *,
    named: bool = False,
) -> EngineArgs:
    """The smallest flags with which an engine serves the adapters, each judged for that engine.

    ``model`` is the base in its command line: a path or id, and perhaps options (empty: it is not known). ``limits``
    are a manifest's. Adapters that are ``named`` there are loaded at the start.

    Raises:
        UsageError: the slots are too few for the adapters to keep loaded, and the base.
    """
    flags = profile.engine.flags
    assert flags is not None
    served, left_out, paths, pinned = dict[str, Adapter](), list[Remark](), dict[str, str](), set[str]()
    for one in results:
        if (remark := _remark(one, flags)) is not None:
            left_out.append(remark)
        elif one.adapter is not None:
            served[one.name] = one.adapter
            if one.request is not None and one.request.keep_loaded:
                pinned.add(one.name)
            if named and one.directory is not None and (path := str(one.directory.absolute())).isprintable():
                paths[one.name] = path
    args = EngineArgs(
        engine=profile.engine.name,
        version=profile.requested or profile.version,
        served=tuple(served),
        left_out=tuple(left_out),
        absent=tuple(name for name in served if named and name not in paths),
        note=profile.note,
    )
    if not served:
        return args
    _set_limits(args, list(served.values()), len(pinned), profile, limits)
    located = list[str]()
    # SGLang does not start with more adapters than max_loaded_loras; vLLM evicts the oldest.
    for name, path in paths.items() if not flags.pins or len(paths) <= args.max_cpu_loras else ():
        stays = {"pinned": True} if flags.pins and name in pinned else {}
        document = {flags.keys[0]: name, flags.keys[1]: path, **stays}
        located.append(json.dumps(document) if stays or "," in path else f"{name}={path}")
    options = [
        ["--enable-lora"],
        ["--max-lora-rank", str(args.max_lora_rank)],
        [flags.slots, str(args.max_loras)],
        [flags.memory, str(args.max_cpu_loras)],
        ["--lora-target-modules", *args.lora_target_modules],
        *([[flags.strict]] if flags.strict else []),
        *([[flags.adapters, *located]] if located else []),
    ]
    args.flags = tuple(word for option in options for word in option)
    lines = [flags.launch.format(base=shlex.join(model) if model else '"$MODEL"')]
    for flag, *values in options:
        between = " \\\n    " if flag == flags.adapters else " "
        lines.append(between.join([f"  {flag}", *map(shlex.quote, values)]))
    args.command = " \\\n".join(lines)
    return args


def _remark(one: Result, flags: "Flags") -> Remark | None:
    """Why the engine does not serve an adapter as it was trained; None if it does."""
    adapter, refusal = one.adapter, one.refusal
    if adapter is None or adapter.config is None or not adapter.pairs or one.error is not None:
        if refusal is not None:
            return Remark(one.name, refusal.message, refusal.hint, refusal.exit_code)
        return Remark(one.name, "it has no LoRA factors")
    engine = one.engines[0]
    worst = next((each for each in one.findings if each.effects.get(engine.asked) is engine.outcome), None)
    if worst is not None and engine.fails:
        return Remark(one.name, worst.problem.message, worst.problem.hint)
    if flags.choices and (unknown := sorted({*_targets(adapter, flags)} - flags.choices)):
        return Remark(one.name, f"--lora-target-modules does not accept {', '.join(unknown)}")
    return None


def _targets(adapter: Adapter, flags: "Flags") -> list[str]:
    """The names of the adapter's modules for the engine's list of target modules, in their order."""
    targets = [
        EXPERTS if flags.experts_as_one and f".{EXPERTS}." in f".{module}." else leaf_of(module)
        for module in _widths(adapter)
    ]
    if flags.choices and adapter.config is not None and isinstance(adapter.config.target_modules, tuple):
        targets += map(last_name, adapter.config.target_modules)  # the engine compares the config with its flags
    return targets


def _widths(adapter: Adapter) -> dict[str, int]:
    """d_in + d_out of each module that takes memory of a slot: engines ignore those of towers."""
    from lora_cli.engines.name_resolution import TOWERS

    widths = {module: pair.widths for module, pair in adapter.pairs.items() if not TOWERS.search(module)}
    return {module: d_in + d_out for module, (d_in, d_out) in widths.items() if d_in is not None and d_out is not None}


def _set_limits(
    args: EngineArgs, adapters: Sequence[Adapter], pinned: int, profile: "Profile", limits: "EngineSpec | None"
) -> None:
    """Set the smallest limits that serve all of the ``adapters``; raises as ``engine_args``."""
    flags = profile.engine.flags
    assert flags is not None
    slots, memory = len(adapters) + flags.base_slots, len(adapters)
    highest = max(found[1] for adapter in adapters if (found := highest_rank(adapter)) is not None)
    rank = next((rank for rank in profile.engine.ranks if rank >= highest), highest)
    if limits is not None:
        least, most = pinned + flags.base_slots, limits.max_loras or slots
        if most < least:
            base = ", and requests to the base use one slot" if flags.base_slots else ""
            raise UsageError(
                f"{most} slots are too few: {pinned} adapters are to be kept loaded{base}",
                hint=f"set max_loras: {least} in the manifest, or pin fewer",
            )
        slots, memory = min(slots, most), min(memory, limits.max_cpu_loras or memory)
        if limits.max_lora_rank is not None and limits.max_lora_rank < rank:
            args.note = f"the manifest's max_lora_rank is {limits.max_lora_rank}, but {rank} is needed"
    widest = dict[str, int]()
    for module, width in (pair for adapter in adapters for pair in _widths(adapter).items()):
        widest[module] = max(width, widest.get(module, 0))
    args.max_lora_rank, args.max_loras, args.max_cpu_loras = rank, slots, max(slots, memory)
    args.slot_bytes = 2 * rank * sum(widest.values())
    args.lora_target_modules = tuple(dict.fromkeys(name for one in adapters for name in _targets(one, flags)))
