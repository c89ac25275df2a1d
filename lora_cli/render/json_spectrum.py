"""``inspect --spectrum`` and ``--diff`` as JSON: every module with its numbers."""

from lora_cli.core.comparison import Comparison, Distance, ModuleComparison, Side
from lora_cli.core.module_grid import Place, places
from lora_cli.core.spectrum import ModuleSpectrum, Spectrum
from lora_cli.render.comparison_report import (
    ComparisonReport,
    FieldDifference,
    ModuleDifference,
    ModuleNorm,
    ModuleSide,
    OtherAdapter,
    TensorDifference,
    UpdateDistance,
)
from lora_cli.render.spectrum_report import ModuleSpectrumReport, ModuleWithoutSpectrum, SpectrumReport


def spectrum_report(spectrum: Spectrum) -> SpectrumReport:
    """The spectrum of one adapter."""
    placed = places(one.path for one in spectrum.modules)
    return SpectrumReport(
        norm=spectrum.norm if not spectrum.unread else None,
        relative=spectrum.relative,
        modules=tuple(_module(one, placed[one.path]) for one in spectrum.modules),
        without=tuple(ModuleWithoutSpectrum(one.module, one.reason) for one in spectrum.without),
        left_out=spectrum.left_out,
        base_reason=spectrum.base_reason,
        unread=spectrum.unread,
        hint=spectrum.hint,
    )


def _module(one: ModuleSpectrum, place: Place) -> ModuleSpectrumReport:
    return ModuleSpectrumReport(
        module=one.module,
        path=one.path,
        stack=place.stack,
        layer=place.layer,
        kind=place.kind,
        r=one.r,
        scaling=one.scaling,
        d_out=one.d_out,
        d_in=one.d_in,
        experts=one.experts,
        norm=one.norm,
        base_norm=one.base_norm,
        relative=one.relative,
        effective_rank=one.effective_rank,
        rank_99=one.rank_99,
        energy=one.energy,
        singular_values=one.singular_values,
        expert_norms=one.expert_norms,
    )


def comparison_report(one: Comparison) -> ComparisonReport:
    """The comparison of one adapter, A, with another one, B."""
    return ComparisonReport(
        with_=OtherAdapter(one.name, one.source, one.revision),
        word=one.word,
        reason=one.reason,
        distance=_distance(one.total),
        fields=tuple(
            FieldDifference(change.field, change.effect, change.a, change.b, change.only_a, change.only_b)
            for change in one.fields
        ),
        only_a=tuple(ModuleNorm(module, norm) for module, norm in one.only_a),
        only_b=tuple(ModuleNorm(module, norm) for module, norm in one.only_b),
        modules=tuple(map(_compared, one.modules)),
        tensors=tuple(
            TensorDifference(tensor.name, tensor.part, tensor.within, tensor.equal, tensor.difference, tensor.reason)
            for tensor in one.tensors
        ),
        unread=one.unread,
        hint=one.hint,
    )


def _compared(module: ModuleComparison) -> ModuleDifference:
    return ModuleDifference(
        module=module.module,
        path=module.path,
        word=module.word,
        reason=module.reason,
        differing=module.differing,
        a=_side(module.a),
        b=_side(module.b),
        distance=_distance(module.distance),
    )


def _side(side: Side) -> ModuleSide:
    return ModuleSide(r=side.r, scaling=side.scaling, lora_A=side.a, lora_B=side.b, dtypes=side.dtypes)


def _distance(one: Distance | None) -> UpdateDistance:
    """Relative numbers are shares of A's norm; all are null where the updates were not compared."""
    if one is None:
        return UpdateDistance(None, None, None, None, None, None, None)
    return UpdateDistance(
        norm_a=one.norm,
        norm_b=one.other_norm,
        cosine=one.cosine,
        difference=one.difference,
        factor=one.factor if one.norm else None,
        rounding=one.explained / one.norm if one.norm else None,
        identical=one.identical,
    )
