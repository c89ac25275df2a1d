"""The GPU memory that an engine's flags need for a set of adapters, as labelled values."""

from lora_cli.base.base_model import BaseModel
from lora_cli.engines import ENGINES
from lora_cli.engines.profile import SlotLayout
from lora_cli.judging.engine_args import EngineArgs, Fit
from lora_cli.text import counted, names, safe, size

MAX_LISTED = 8
"""The most adapters that are listed for one reason."""

Rows = list[tuple[str, str]]

LATER = "adapters loaded later are silently served without modules that are not listed here"
VALUES = "values were not read: lora-cli validate finds NaN, zeros and updates that are too large"


def title(args: EngineArgs, base: BaseModel | None) -> str:
    """The engine, and the number of adapters that it serves."""
    number = len(args.served) + len(args.left_out) + len(args.served_wrong)
    few = f"{len(args.served)} of " if len(args.served) < number else ""
    served = f"{few}{counted(number, 'adapter')}"
    engine = f"{ENGINES[args.engine].title} {args.version or args.profile}"
    return f"{engine} for {served}{f' on {base.name}' if base is not None else ''}"


def costs(args: EngineArgs) -> Rows:
    """The least memory, and the adapters that are not served, or served incorrectly."""
    layout = ENGINES[args.engine].slots
    assert layout is not None
    rows = _fit_rows(args, args.fit, layout) if args.fit is not None else []
    rows += [
        ("left out", f"{one.name}: {one.reason}{f' ({one.hint})' if one.hint else ''}")
        for one in args.left_out[:MAX_LISTED]
    ]
    apart = f"; not in {layout.flags.adapters}" if args.located else ""
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
    """The least size of a slot and of all slots."""
    own = f"rank {fit.max_lora_rank} in half precision for the adapters' own modules"
    base = ", and one slot is for requests to the base model" if args.base_slots else ""
    slots = f"{fit.max_loras} x {size(fit.slot_bytes)} = at least {size(fit.total_bytes)}"
    if fit.max_loras < len(args.served) + args.base_slots:
        slots += f": {len(args.served)} adapters are swapped{base}"
    else:
        slots += f": every adapter stays on the GPU{base}"
        few = 1 + args.base_slots
        slots += f"; with {layout.flags.slots} {few} they are swapped" if fit.max_loras > few else ""
    rows = [("slot", f"at least {size(fit.slot_bytes)} on the GPU: {own}"), ("slots", slots)]
    return [*rows, ("warning", LATER)]
