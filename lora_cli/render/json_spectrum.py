"""What machines read of ``inspect --spectrum`` and ``--diff``: every module with its numbers."""

from collections.abc import Mapping
from typing import Any

from lora_cli.core.comparison import Comparison, Distance, ModuleComparison, Side
from lora_cli.core.module_grid import Place, places
from lora_cli.core.spectrum import ModuleSpectrum, Spectrum


def spectrum_fields(spectrum: Spectrum | None) -> dict[str, Any] | None:
    """A spectrum as the document has it, or None where none was asked for."""
    if spectrum is None:
        return None
    placed = places(one.path for one in spectrum.modules)
    return {
        "norm": spectrum.norm if not spectrum.unread else None,
        "relative": spectrum.relative,
        "modules": [_module(one, placed[one.path]) for one in spectrum.modules],
        "without": [{"module": one.module, "reason": one.reason} for one in spectrum.without],
        "left_out": list(spectrum.left_out),
        "base_reason": spectrum.base_reason,
        "unread": spectrum.unread,
        "hint": spectrum.hint,
    }


def _module(one: ModuleSpectrum, place: Place) -> dict[str, Any]:
    return {
        "module": one.module,
        "path": one.path,
        "stack": place.stack,
        "layer": place.layer,
        "kind": place.kind,
        "r": one.r,
        "scaling": one.scaling,
        "d_out": one.d_out,
        "d_in": one.d_in,
        "experts": one.experts,
        "norm": one.norm,
        "base_norm": one.base_norm,
        "relative": one.relative,
        "effective_rank": one.effective_rank,
        "rank_99": one.rank_99,
        "energy": dict(one.energy),
        "singular_values": list(one.singular_values),
        "expert_norms": list(one.expert_norms),
    }


def comparison_fields(one: Comparison | None) -> dict[str, Any] | None:
    """A comparison as the document has it, or None where none was asked for. A is the adapter that it stands with."""
    if one is None:
        return None
    return {
        "with": {"name": one.name, "source": one.source, "revision": one.revision},
        "word": one.word,
        "reason": one.reason,
        **_distance(one.total),
        "fields": [
            {
                "field": change.field,
                "effect": change.effect,
                "a": change.a,
                "b": change.b,
                "only_a": list(change.only_a),
                "only_b": list(change.only_b),
            }
            for change in one.fields
        ],
        "only_a": [{"module": module, "norm": norm} for module, norm in one.only_a],
        "only_b": [{"module": module, "norm": norm} for module, norm in one.only_b],
        "modules": [_compared(module) for module in one.modules],
        "tensors": [
            {
                "name": tensor.name,
                "part": tensor.part,
                "within": tensor.within,
                "equal": tensor.equal,
                "difference": tensor.difference,
                "reason": tensor.reason,
            }
            for tensor in one.tensors
        ],
        "unread": one.unread,
        "hint": one.hint,
    }


def _compared(module: ModuleComparison) -> dict[str, Any]:
    return {
        "module": module.module,
        "path": module.path,
        "word": module.word,
        "reason": module.reason,
        "differing": list(module.differing),
        "a": _side(module.a),
        "b": _side(module.b),
        **_distance(module.distance),
    }


def _side(side: Side) -> dict[str, Any]:
    return {
        "r": side.r,
        "scaling": side.scaling,
        "lora_A": side.a,
        "lora_B": side.b,
        "dtypes": list(side.dtypes),
    }


def _distance(one: Distance | None) -> Mapping[str, Any]:
    """Relative numbers are shares of A's norm; all are null where the updates were not compared."""
    if one is None:
        names = ("norm_a", "norm_b", "cosine", "difference", "factor", "rounding", "identical")
        return dict.fromkeys(names)
    return {
        "norm_a": one.norm,
        "norm_b": one.other_norm,
        "cosine": one.cosine,
        "difference": one.difference,
        "factor": one.factor if one.norm else None,
        "rounding": one.explained / one.norm if one.norm else None,
        "identical": one.identical,
    }
