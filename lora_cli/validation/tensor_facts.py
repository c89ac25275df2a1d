"""The spectrum of an adapter and its comparison with another one, if their values are on this disk."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lora_cli.core.addresses import without_secrets
from lora_cli.core.base_model import BaseModel
from lora_cli.core.comparison import Comparison
from lora_cli.core.log import logger
from lora_cli.core.reference import AdapterRef
from lora_cli.core.spectrum import Spectrum
from lora_cli.errors import LoraCliError, Refused
from lora_cli.reading.adapter import Opened, read_adapter
from lora_cli.settings import Settings
from lora_cli.sources import is_on_disk
from lora_cli.sources.registry import Sources
from lora_cli.validation.base_model import open_checkpoint
from lora_cli.validation.validate import cached_or_origin, ref_of
from lora_cli.validation.verdict import Checked, Stopwatch, Terms

if TYPE_CHECKING:
    from lora_cli.reading.base_weights import BaseNorms

log = logger(__name__)

LONG = 4 << 30
"""The size in bytes of a base's weights from which a warning says that reading them takes seconds."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The norms of the base's weights to compare updates with, or the ``reason`` why a base has none."""

    norms: "BaseNorms | None" = None
    reason: str = ""


def open_base_weights(base: str | AdapterRef, model: BaseModel, settings: Settings) -> Weights:
    """The weights of the base, if they are on this disk."""
    ref = ref_of(base)
    try:
        checkpoint = open_checkpoint(ref, model, settings)
    except LoraCliError as error:
        return Weights(reason=f"the base's weights cannot be read: {error.message}")
    if checkpoint is None:
        where = "are not all on this disk" if ref.scheme != "file" else f"are not in {ref.location} as safetensors"
        return Weights(reason=f"the base's weights {where}; set --base to a folder that has them")
    if checkpoint.nbytes > LONG:
        warning = (
            "up to %.1f GiB of the base's weights are read for their norms; use its config.json as --base to avoid this"
        )
        log.warning(warning, checkpoint.nbytes / 2**30)
    from lora_cli.reading.base_weights import BaseNorms

    return Weights(BaseNorms(checkpoint))


def open_compared_adapter(text: str, settings: Settings) -> Opened:
    """The adapter to compare with; of a remote one only the header is read.

    Raises:
        Refused: its config or its weights cannot be read.
        LoraCliError: what its source raises.
    """
    ref = ref_of(text)
    source = cached_or_origin(ref, settings, Sources(settings).of(ref))
    revision = source.resolve(ref)
    name = without_secrets(text)
    adapter = read_adapter(source, revision, name, settings.max_header_bytes)
    for error in (adapter.config_error, adapter.weights_error):
        if error is not None:
            raise Refused(f"--diff {name}: {error.message}", hint=error.hint)
    if not adapter.weight_files and not adapter.unread:
        raise Refused(f"--diff {name} contains no adapter weights", hint="use the folder that contains them")
    return Opened(source, revision, adapter)


def add_tensor_facts(checked: Checked, one: Opened, terms: Terms, watch: Stopwatch) -> Checked:
    """``checked`` with the spectrum and the comparison that ``terms`` request.

    Raises:
        LoraCliError: what the sources raise.
    """
    if terms.spectrum is not None:
        checked = replace(checked, spectrum=spectrum_of(one, terms.base, terms.spectrum))
        watch.lap("spectrum")
    if terms.other is not None:
        checked = replace(checked, comparison=comparison_of(one, terms.other, terms.base))
        watch.lap("comparison")
    return checked


def spectrum_of(one: Opened, base: BaseModel | None, weights: Weights) -> Spectrum:
    """The spectrum of an adapter, or one with the reason why it is ``unread``. Raises what the source raises."""
    unread, hint = unreadable(one)
    if unread:
        return Spectrum(None, None, unread=unread, hint=hint)
    from lora_cli.reading.deltas import read_spectrum

    spectrum = read_spectrum(one, base, weights.norms)
    return spectrum if weights.norms is not None else replace(spectrum, base_reason=weights.reason)


def comparison_of(one: Opened, other: Opened, base: BaseModel | None) -> Comparison:
    """How ``other`` differs from ``one``: without values on this disk, by config and header. Raises what sources do."""
    from lora_cli.reading.comparison import compare

    of_one, of_other = unreadable(one), unreadable(other)
    (unread, hint), side = (of_one, "A") if of_one[0] else (of_other, "B")
    return compare(one, other, base, unread and f"of {side}, {unread}", hint)


def unreadable(one: Opened) -> tuple[str, str]:
    """Why the values of an adapter cannot be read (empty if they can), and a hint."""
    adapter, revision = one.adapter, one.revision
    if adapter.weights_error is not None:
        return "the weights cannot be read", adapter.weights_error.message
    if not adapter.weight_files:
        return adapter.unread or "there are no weights", ""
    if adapter.pairs and not is_on_disk(one.source, revision):
        hint = f"run lora-cli fetch {revision.ref} first"
        return "its values are not on this disk: only the header of a remote adapter is read", hint
    return "", ""
