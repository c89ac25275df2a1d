"""The spectrum of an adapter whose bytes are on this disk: every module's, a few of them at a time."""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from lora_cli.core.base_model import BaseModel
from lora_cli.core.factors import Factors, Unreadable, factors_of
from lora_cli.core.spectrum import ModuleSpectrum, Spectrum, left_out, module_spectrum, spectrum_of
from lora_cli.core.text import counted
from lora_cli.errors import FormatError
from lora_cli.reading.adapter import Opened
from lora_cli.reading.checkpoint import BaseNorms
from lora_cli.reading.updates import load_factors, not_finite, singular_values, updates_of

AT_ONCE = min(os.cpu_count() or 1, 4)
"""Modules that are read and reckoned at once: their factors are in memory."""

Found = tuple[ModuleSpectrum | Unreadable, str]


def read_spectrum(one: Opened, base: BaseModel | None = None, norms: BaseNorms | None = None) -> Spectrum:
    """The spectrum of an adapter. With ``norms`` each module's base weight is read too, as a stream.

    Raises:
        LoraCliError: what the sources raise.
    """
    factors, unreadable = factors_of(one.adapter, base)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda module: _of_one(one, module, norms), factors))
    without = {
        told.module: told for told in (*unreadable, *(told for told, _ in found if isinstance(told, Unreadable)))
    }
    return spectrum_of(
        [told for told, _ in found if isinstance(told, ModuleSpectrum)],
        [without[module] for module in one.adapter.pairs if module in without],
        left_out(one.adapter),
        _reasons([reason for _, reason in found if reason]),
    )


def _of_one(one: Opened, factors: Factors, norms: BaseNorms | None) -> Found:
    try:
        loaded = load_factors(one.source, one.revision, factors)
        values = [tuple(map(float, singular_values(update))) for update in updates_of(factors, loaded)]
    except FormatError as error:
        return Unreadable(factors.module, error.reason), ""
    if not all(math.isfinite(math.hypot(*found)) for found in values):
        return Unreadable(factors.module, not_finite(factors, loaded)), ""
    base_norm, reason = norms.of(factors) if norms is not None else (None, "")
    return module_spectrum(factors, values, base_norm), reason


def _reasons(reasons: Sequence[str]) -> str:
    """Each reason once, with how many modules it is of."""
    counts = {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
    return "; ".join(f"{reason} ({counted(count, 'module')})" for reason, count in counts.items())
