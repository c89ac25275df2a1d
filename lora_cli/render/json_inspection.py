"""What machines read of ``inspect``: what each adapter is, and the flags with which an engine serves them.

Its JSON Schema is ``manifests/schemas/inspect.schema.json``.
"""

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from lora_cli.core.base_model import BaseModel
from lora_cli.core.card import LISTS, WORDS
from lora_cli.core.finding import Severity
from lora_cli.core.inspection import Inspection
from lora_cli.render.json import document
from lora_cli.render.json_verdicts import base_fields, checked_fields
from lora_cli.validation import Checked

if TYPE_CHECKING:
    from lora_cli.engines.fit import Driver, Fit
    from lora_cli.validation.engine_args import EngineArgs


def render_inspections(
    inspected: Iterable[tuple[Checked, Inspection | None]],
    base: BaseModel | None = None,
    args: "EngineArgs | None" = None,
) -> str:
    """The document of ``inspect``: what each adapter is, or the error that kept it from being read.

    Counts by rank, scaling, target and dtype map the value, as a string, to how many have it. ``spectrum`` and
    ``diff`` are null unless they were asked for.
    """
    from lora_cli.render.json_spectrum import comparison_fields, spectrum_fields

    adapters = [
        {
            **checked_fields(one, Severity.ERROR),
            "exit_code": one.read_code,
            "inspection": None if inspection is None else _inspection(inspection),
            "spectrum": spectrum_fields(one.spectrum),
            "diff": comparison_fields(one.comparison),
        }
        for one, inspection in inspected
    ]
    flags = None if args is None else _engine_args(args)
    return document("inspect", {"base": base_fields(base), "adapters": adapters, "engine_args": flags})


MOST_MODULES = 75_000
"""Modules of one adapter that are listed; ``modules`` counts all of them."""


def _inspection(one: Inspection) -> dict[str, Any]:
    fields = asdict(replace(one, by_module=one.by_module[:MOST_MODULES]))
    if one.card is not None:
        fields["card"] = {key: fields["card"][key] for key in (*WORDS, *LISTS, "error")}
    return fields


def _engine_args(args: "EngineArgs") -> dict[str, Any]:
    from lora_cli.engines.launch import for_shell

    words = [word for option in args.options for word in option]
    return {
        "engine": args.profile.engine.name,
        "version": args.profile.asked or None,
        "profile": args.profile.version,
        "proven": args.profile.proven,
        "flags": words,
        "command": for_shell([*args.launch, *words]) if words else "",
        "tp": args.deployed.tp,
        "served": list(args.served),
        "left_out": [asdict(remark) for remark in args.left_out],
        "served_wrong": [asdict(remark) for remark in args.wrong],
        "fit": None if args.fit is None else _fit(args.fit),
        "dtype": args.base.served_dtype if args.base is not None else None,
        "base_slots": args.profile.engine.slots.base_slots if args.profile.engine.slots is not None else 0,
        "drivers": [_driver(one, args.fit) for one in args.drivers if args.fit is not None],
        "located": [asdict(one) for one in args.located],
        "absent": list(args.absent),
        "notes": list(args.notes),
    }


def _fit(fit: "Fit") -> dict[str, Any]:
    return {
        "max_lora_rank": fit.rank,
        "lora_target_modules": None if fit.targets is None else list(fit.targets),
        "max_loras": fit.slots,
        "max_cpu_loras": fit.memory,
        "slot_bytes": fit.slot_bytes,
        "total_bytes": fit.total_bytes,
        "whole_slot_bytes": fit.whole_bytes,
        "lower_bound": fit.lower_bound,
    }


def _driver(one: "Driver", fit: "Fit") -> dict[str, Any]:
    return {
        "adapters": list(one.adapters),
        "without": _fit(one.without),
        "saves_slot_bytes": fit.slot_bytes - one.without.slot_bytes,
        "saves_bytes": fit.total_bytes - one.without.total_bytes,
    }
