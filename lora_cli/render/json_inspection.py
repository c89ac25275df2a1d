"""``inspect`` as JSON: what each adapter is, and the flags with which an engine serves them."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lora_cli import __version__
from lora_cli.core.base_model import BaseModel
from lora_cli.core.card import Card
from lora_cli.core.inspection import Inspection
from lora_cli.render.inspect_report import (
    AdapterSummary,
    EngineArgsReport,
    InspectedAdapter,
    InspectReport,
    LocatedAdapter,
    ModelCard,
    ModuleSummary,
    Remark,
    SlotDriver,
    SlotFit,
    WriterReport,
)
from lora_cli.render.json import encoded
from lora_cli.render.json_spectrum import comparison_report, spectrum_report
from lora_cli.render.json_verdicts import base_summary, checked_adapter, finding_report
from lora_cli.validation import Checked

if TYPE_CHECKING:
    from lora_cli.engines.fit import Driver, Fit
    from lora_cli.validation.engine_args import EngineArgs
    from lora_cli.validation.needs import Remark as Remarked

MOST_MODULES = 75_000
"""Modules of one adapter that are listed; ``modules`` counts all of them."""


def render_inspections(
    inspected: Iterable[tuple[Checked, Inspection | None]],
    base: BaseModel | None = None,
    args: "EngineArgs | None" = None,
) -> str:
    """The document of ``inspect``; ``manifests/schemas/inspect.schema.json`` is its schema."""
    return encoded(inspect_report(inspected, base, args))


def inspect_report(
    inspected: Iterable[tuple[Checked, Inspection | None]], base: BaseModel | None, args: "EngineArgs | None"
) -> InspectReport:
    """The report of one run of ``inspect``: what each adapter is, or the error that kept it from being read."""
    return InspectReport(
        schema="lora_cli/inspect/1",
        version=__version__,
        base=base_summary(base),
        adapters=tuple(_inspected(one, inspection) for one, inspection in inspected),
        engine_args=None if args is None else _engine_args(args),
    )


def _inspected(one: Checked, inspection: Inspection | None) -> InspectedAdapter:
    findings = one.verdict.findings if one.verdict is not None else ()
    return InspectedAdapter(
        checked=checked_adapter(one, one.read_code, tuple(map(finding_report, findings))),
        inspection=None if inspection is None else _summary(inspection),
        spectrum=None if one.spectrum is None else spectrum_report(one.spectrum),
        diff=None if one.comparison is None else comparison_report(one.comparison),
    )


def _summary(one: Inspection) -> AdapterSummary:
    return AdapterSummary(
        format=one.format,
        base=one.base,
        base_revision=one.base_revision,
        peft_version=one.peft_version,
        task_type=one.task_type,
        modules=one.modules,
        ranks=one.ranks,
        scalings=one.scalings,
        targets=one.targets,
        layers=one.layers,
        dtypes=one.dtypes,
        parameters=one.parameters,
        weight_bytes=one.weight_bytes,
        total_bytes=one.total_bytes,
        files=one.files,
        sha256=one.sha256,
        snapshot=one.snapshot,
        features=one.features,
        slot_bytes=one.slot_bytes,
        slot_dtype=one.slot_dtype,
        writers=tuple(WriterReport(writer.tool, writer.version, writer.told_by) for writer in one.writers),
        card=None if one.card is None else _card(one.card),
        metadata=one.metadata,
        by_module=tuple(
            ModuleSummary(
                module=module.module,
                r=module.r,
                scaling=module.scaling,
                d_in=module.d_in,
                d_out=module.d_out,
                dtype=module.dtype,
                parameters=module.parameters,
                bytes=module.bytes,
            )
            for module in one.by_module[:MOST_MODULES]
        ),
    )


def _card(card: Card) -> ModelCard:
    return ModelCard(
        license=card.license,
        license_name=card.license_name,
        license_link=card.license_link,
        library_name=card.library_name,
        pipeline_tag=card.pipeline_tag,
        base_model=card.base_model,
        language=card.language,
        datasets=card.datasets,
        tags=card.tags,
        error=card.error,
    )


def _engine_args(args: "EngineArgs") -> EngineArgsReport:
    from lora_cli.engines.launch import for_shell

    words = tuple(word for option in args.options for word in option)
    slots = args.profile.engine.slots
    return EngineArgsReport(
        engine=args.profile.engine.name,
        version=args.profile.asked or None,
        profile=args.profile.version,
        proven=args.profile.proven,
        flags=words,
        command=for_shell([*args.launch, *words]) if words else "",
        tp=args.deployed.tp,
        served=args.served,
        left_out=tuple(map(_remark, args.left_out)),
        served_wrong=tuple(map(_remark, args.wrong)),
        fit=None if args.fit is None else _fit(args.fit),
        dtype=args.base.served_dtype if args.base is not None else None,
        base_slots=slots.base_slots if slots is not None else 0,
        drivers=tuple(_driver(one, args.fit) for one in args.drivers if args.fit is not None),
        located=tuple(LocatedAdapter(one.name, one.path, one.pinned) for one in args.located),
        absent=args.absent,
        notes=args.notes,
    )


def _remark(one: "Remarked") -> Remark:
    return Remark(one.name, one.reason, one.hint, one.exit_code)


def _fit(fit: "Fit") -> SlotFit:
    return SlotFit(
        max_lora_rank=fit.rank,
        lora_target_modules=fit.targets,
        max_loras=fit.slots,
        max_cpu_loras=fit.memory,
        slot_bytes=fit.slot_bytes,
        total_bytes=fit.total_bytes,
        whole_slot_bytes=fit.whole_bytes,
        lower_bound=fit.lower_bound,
    )


def _driver(one: "Driver", fit: "Fit") -> SlotDriver:
    return SlotDriver(
        adapters=one.adapters,
        without=_fit(one.without),
        saves_slot_bytes=fit.slot_bytes - one.without.slot_bytes,
        saves_bytes=fit.total_bytes - one.without.total_bytes,
    )
