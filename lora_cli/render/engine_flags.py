"""The GPU memory that an engine's flags need for a set of adapters, as labelled values."""

from lora_cli.engines import ENGINES
from lora_cli.engines.profile import SlotLayout
from lora_cli.engines.slot_sizing import Driver, Fit
from lora_cli.judging.engine_args import EngineArgs
from lora_cli.judging.report import BaseModelSummary
from lora_cli.text import counted, names, safe, size

MAX_LISTED = 8
"""The most adapters that are listed for one reason."""

Rows = list[tuple[str, str]]


VALUES = "values were not read: lora-cli validate finds NaN, zeros and updates that are too large"


def title(args: EngineArgs, base: BaseModelSummary | None) -> str:
    """The engine, and the number of adapters that it serves."""
    number = len(args.served) + len(args.left_out) + len(args.served_wrong)
    few = f"{len(args.served)} of " if len(args.served) < number else ""
    served = f"{few}{counted(number, 'adapter')}"
    engine = f"{ENGINES[args.engine].title} {args.version or args.profile}"
    return f"{engine} for {served}{f' on {base.name}' if base is not None else ''}"


def costs(args: EngineArgs) -> Rows:
    """Memory, its cost drivers, and the adapters that are not served, or served incorrectly."""
    layout = ENGINES[args.engine].slots
    assert layout is not None
    rows = _fit_rows(args, args.fit, layout) if args.fit is not None else []
    rows += [
        ("left out", f"{one.name}: {one.reason}{f' ({one.hint})' if one.hint else ''}")
        for one in args.left_out[:MAX_LISTED]
    ]
    apart = f"; not in {layout.flags.adapters}" if args.named else ""
    rows += [("wrong", f"{one.name}: {one.reason}{apart}") for one in args.served_wrong[:MAX_LISTED]]
    rows += [("note", note) for note in (*args.notes, VALUES)]
    for label, remarks in (("left out", args.left_out), ("wrong", args.served_wrong)):
        if len(remarks) > MAX_LISTED:
            rows.append((label, f"and {len(remarks) - MAX_LISTED} more: --format json has all"))
    if args.absent:
        resolver = ", or with --publish DIR for vLLM's resolver" if args.engine == "vllm" else ""
        rows.append(
            ("not cached", f"{safe(names(args.absent, MAX_LISTED))}: lora-cli fetch -f downloads them{resolver}")
        )
    return rows


def _fit_rows(args: EngineArgs, fit: Fit, layout: SlotLayout) -> Rows:
    """The size of a slot and of all slots, and the adapters that determine it."""
    has_choice = fit.lora_target_modules is not None and not layout.needs_targets
    least, whose = "", "every module that can have LoRA"
    if fit.lower_bound:
        least, whose = "at least ", "the adapters' own modules"
    elif fit.lora_target_modules is not None:
        whose = "these modules, and those packed with them"
    dtype = "half precision" if args.dtype is None else args.dtype
    slot = f"{least}{size(fit.slot_bytes)} on the GPU: rank {fit.max_lora_rank} in {dtype} for {whose}"
    if has_choice and fit.whole_slot_bytes > fit.slot_bytes:
        slot += f"; {size(fit.whole_slot_bytes)} without {layout.flags.targets}"
    rows: Rows = [("slot", slot), ("slots", _slots(args, fit, layout.flags.slots, least))]
    if fit.lower_bound:
        rows.append(("base", "not set: --base is needed for the modules of the engine and the exact size of a slot"))
    if has_choice:
        line = "adapters loaded later are silently served without modules that are not listed here"
        rows.append(("warning", line))
    return [*rows, *(("cost driver", _cost_driver(one, fit)) for one in args.drivers[:MAX_LISTED])]


def _slots(args: EngineArgs, fit: Fit, flag: str, least: str) -> str:
    """The number of slots, their size, and the trade-off between memory and swapping."""
    line = f"{fit.max_loras} x {size(fit.slot_bytes)} = {least}{size(fit.total_bytes)}"
    base = ", and one slot is for requests to the base model" if args.base_slots else ""
    if fit.max_loras < len(args.served) + args.base_slots:
        return f"{line}: {len(args.served)} adapters are swapped{base}; another slot is {size(fit.slot_bytes)} more"
    line += f": every adapter stays on the GPU{base}"
    few = 1 + args.base_slots
    if fit.max_loras > few:
        line += f"; with {flag} {few} they are swapped in {size(few * fit.slot_bytes)}, one adapter per batch"
    return line


def _cost_driver(one: Driver, fit: Fit) -> str:
    """``sql alone needs rank 256 …``: the size of a slot with and without some adapters."""
    without, alone = one.without, len(one.adapters) == 1
    rank, other_targets, targets = fit.max_lora_rank, without.lora_target_modules, fit.lora_target_modules
    reasons = [f"rank {rank} (else {without.max_lora_rank})"] if without.max_lora_rank < rank else []
    if other_targets is not None and (mine := [name for name in targets or () if name not in other_targets]):
        reasons.append(f"LoRA on {', '.join(mine)}")
    elif targets is None and other_targets is not None:
        reasons.append(f"LoRA on more than {', '.join(other_targets)}")
    who = f"{safe(names(one.adapters, MAX_LISTED))} {'alone needs' if alone else 'together need'}"
    what = " and ".join(reasons) or "modules that no other adapter has"
    return (
        f"{who} {what}: a slot takes {size(fit.slot_bytes)}, or {size(without.slot_bytes)} without "
        f"{'it' if alone else 'them'}; all slots {size(fit.total_bytes)}, or {size(without.total_bytes)}"
    )
