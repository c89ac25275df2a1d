"""Where an adapter's values are at hand: its spectrum, beside the base's weights where those are on this disk too."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lora_cli.core.base_model import BaseModel
from lora_cli.core.log import logger
from lora_cli.core.reference import AdapterRef
from lora_cli.core.spectrum import Spectrum
from lora_cli.errors import LoraCliError
from lora_cli.reading.adapter import Opened
from lora_cli.settings import Settings
from lora_cli.sources import is_near
from lora_cli.validation.base import open_checkpoint
from lora_cli.validation.validate import ref_of

if TYPE_CHECKING:
    from lora_cli.reading.checkpoint import BaseNorms

log = logger(__name__)

LONG = 4 << 30
"""Bytes of a base's weights from which it is said that they are read: that takes seconds."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The base's weights to compare updates with: ``norms``, or ``reason`` why there are none where there is a base."""

    norms: "BaseNorms | None" = None
    reason: str = ""


def open_weights(base: str | AdapterRef, model: BaseModel, settings: Settings) -> Weights:
    """The weights of the base that ``base`` names, where they are on this disk."""
    ref = ref_of(base)
    try:
        checkpoint = open_checkpoint(ref, model, settings)
    except LoraCliError as error:
        return Weights(reason=f"the base's weights cannot be read: {error.message}")
    if checkpoint is None:
        where = "are not all on this disk" if ref.scheme != "file" else f"are not in {ref.location} as safetensors"
        return Weights(reason=f"the base's weights {where}; name a folder that has them with --base")
    if checkpoint.nbytes > LONG:
        told = "up to %.1f GiB of the base's weights are read for their norms; with its config.json as --base none are"
        log.warning(told, checkpoint.nbytes / 2**30)
    from lora_cli.reading.checkpoint import BaseNorms

    return Weights(BaseNorms(checkpoint))


def spectrum_in_place(one: Opened, base: BaseModel | None, weights: Weights) -> Spectrum:
    """The spectrum of an adapter, or one that says why it is ``unread``.

    Raises:
        LoraCliError: what the source raises.
    """
    if (unread := unreadable(one)) is not None:
        reason, hint = unread
        return Spectrum(None, None, unread=reason, hint=hint)
    from lora_cli.reading.updates import read_spectrum

    spectrum = read_spectrum(one, base, weights.norms)
    return spectrum if weights.norms is not None else replace(spectrum, base_reason=weights.reason)


def unreadable(one: Opened) -> tuple[str, str] | None:
    """Why no values of an adapter can be read, and what to do; None where they can."""
    adapter, revision = one.adapter, one.revision
    if adapter.weights_error is not None:
        return "the weights cannot be read", adapter.weights_error.message
    if not adapter.weight_files:
        return adapter.unread or "there are no weights", ""
    if adapter.pairs and not is_near(one.source, revision):
        hint = f"lora-cli fetch {revision.ref} brings them here, and then they are read from the cache"
        return "its values are not on this disk: of a remote adapter only the header is read", hint
    return None
