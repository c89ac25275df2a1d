"""The flags with which an engine serves a set of adapters, in words: the command, and what its numbers cost."""

from collections.abc import Iterator

from lora_cli.core.text import counted, names, safe, size
from lora_cli.engines.fit import Driver, Fit
from lora_cli.engines.launch import for_shell
from lora_cli.engines.slots import Flags
from lora_cli.validation.engine_args import EngineArgs

MOST = 8
"""So many adapters of one kind are named; how many more there are is said."""

Rows = list[tuple[str, str]]


def title(args: EngineArgs) -> str:
    """Which engine, for how many of the adapters."""
    number = len(args.served) + len(args.left_out)
    base = f" on {args.base.name}" if args.base is not None else ""
    served = counted(number, "adapter") if not args.left_out else f"{len(args.served)} of {counted(number, 'adapter')}"
    return f"{args.profile.title} for {served}{base}"


def costs(args: EngineArgs) -> Rows:
    """Everything but the command: what it costs, who makes it cost that, and who is not served, or wrongly."""
    rows: Rows = []
    if args.fit is not None:
        rows += _fit_rows(args, args.fit)
        rows += [("cost driver", _driver(one, args.fit)) for one in args.drivers[:MOST]]
    rows += [
        ("left out", f"{one.name}: {one.reason}{f' ({one.hint})' if one.hint else ''}") for one in args.left_out[:MOST]
    ]
    apart = f"; not in {_flags(args).adapters}" if args.deployed.named else ""
    rows += [("wrong", f"{one.name}: {one.reason}{apart}") for one in args.wrong[:MOST]]
    return [*rows, *_rest(args)]


def command(args: EngineArgs) -> Iterator[str]:
    """Lines that end with a backslash, but for the last: pasted whole, they are one command. None is ever wrapped."""
    lines = [for_shell(args.launch)]
    for flag, *values in args.options:
        if flag == _flags(args).adapters:
            lines += [f"  {flag}", *(f"    {for_shell([value])}" for value in values)]
        else:
            lines.append(f"  {for_shell([flag, *values])}")
    yield from (f"{line} \\" for line in lines[:-1])
    yield lines[-1]


def _flags(args: EngineArgs) -> Flags:
    layout = args.profile.engine.slots
    assert layout is not None
    return layout.flags


def _fit_rows(args: EngineArgs, fit: Fit) -> Rows:
    flags = _flags(args)
    dtype = args.base.served_dtype if args.base is not None else "half precision"
    each = " on each GPU" if args.deployed.tp > 1 else " on the GPU"
    least = "at least " if fit.lower_bound else ""
    whose = "the adapters' own modules" if fit.lower_bound else _which(args, fit)
    slot = f"{least}{size(fit.slot_bytes)}{each}: rank {fit.rank} in {dtype} for {whose}"
    if fit.targets is not None and fit.whole_bytes > fit.slot_bytes and not _needed(args):
        slot += f"; {size(fit.whole_bytes)} without {flags.targets}"
    rows: Rows = [("slot", slot), ("slots", _slots(args, fit, least))]
    if fit.lower_bound:
        rows.append(("base", "not given: --base says which modules the engine has, and so what a slot really takes"))
    if fit.targets is not None and not _needed(args):
        said = "an adapter that is loaded later is silently served without its modules that are not named here"
        rows.append(("warning", said))
    return rows


def _needed(args: EngineArgs) -> bool:
    return args.profile.engine.slots is not None and args.profile.engine.slots.needs_targets


def _which(args: EngineArgs, fit: Fit) -> str:
    if fit.targets is not None:
        return "these modules, and those that are packed with them"
    return "every module that can have LoRA"


def _slots(args: EngineArgs, fit: Fit, least: str) -> str:
    """How many, what all take, and what fewer would save: the trade between memory and adapters that take turns."""
    flags, own = _flags(args), args.profile.engine.slots.base_slots if args.profile.engine.slots is not None else 0
    said = f"{fit.slots} x {size(fit.slot_bytes)} = {least}{size(fit.total_bytes)}"
    base = ", and one slot is for requests to the base alone" if own else ""
    if fit.slots >= len(args.served) + own:
        said += f": every adapter stays on the GPU{base}"
        if fit.slots > 1 + own:
            few = 1 + own
            said += (
                f"; with {flags.slots} {few} they are swapped in {size(few * fit.slot_bytes)}, one adapter per batch"
            )
        return said
    return f"{said}: {len(args.served)} adapters are swapped{base}; another slot is {size(fit.slot_bytes)} more"


def _driver(one: Driver, fit: Fit) -> str:
    """``sql alone asks for rank 256 …``: what a slot takes with it and without it, or with and without several."""
    without, alone = one.without, len(one.adapters) == 1
    reasons = [f"rank {fit.rank} (else {without.rank})"] if without.rank < fit.rank else []
    kept = without.targets
    mine = [name for name in fit.targets or () if kept is not None and name not in kept]
    if mine:
        reasons.append(f"LoRA on {', '.join(mine)}")
    elif fit.targets is None and kept is not None:
        reasons.append(f"LoRA on more than {', '.join(kept)}")
    who = f"{safe(names(one.adapters, MOST))} {'alone asks' if alone else 'together ask'} for"
    what = " and ".join(reasons) or "modules that no other has"
    return (
        f"{who} {what}: a slot takes {size(fit.slot_bytes)}, and {size(without.slot_bytes)} without "
        f"{'it' if alone else 'them'}; all slots {size(fit.total_bytes)}, and {size(without.total_bytes)}"
    )


def _rest(args: EngineArgs) -> Rows:
    rows: Rows = [("note", note) for note in args.notes]
    for label, remarks in (("left out", args.left_out), ("wrong", args.wrong)):
        if len(remarks) > MOST:
            rows.append((label, f"and {len(remarks) - MOST} more: --format json has all"))
    if args.absent and args.deployed.named:
        resolver = ", or with --publish DIR for vLLM's resolver" if args.profile.engine.name == "vllm" else ""
        rows.append(("not cached", f"{safe(names(args.absent, MOST))}: lora-cli fetch -f downloads them{resolver}"))
    return rows
