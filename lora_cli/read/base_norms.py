"""How large the weights of a base are: Frobenius norms from its checkpoint, streamed, in bounded memory."""

import math
from collections.abc import Mapping
from pathlib import Path

from lora_cli.core.architectures.layouts import names_in_memory
from lora_cli.core.factors import Factors
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Revision
from lora_cli.core.tensor_info import TensorInfo
from lora_cli.errors import FormatError
from lora_cli.read.base import read_checkpoint
from lora_cli.read.headers import read_header
from lora_cli.read.magnitude import MEASURED, measure, usual
from lora_cli.read.pieces import pieces
from lora_cli.sources import Source
from lora_cli.sources.local import LocalSource


class BaseNorms:
    """A checkpoint's weights and the norms of those that were asked for; safe to be asked by several threads."""

    def __init__(
        self, source: Source, revision: Revision, tensors: Mapping[str, TensorInfo], *, tied: Mapping[str, str] = {}
    ) -> None:
        """``tensors`` are all of the checkpoint; ``tied`` names the parameter that another one, not stored, is."""
        self._source, self._revision, self._tensors, self._tied = source, revision, tensors, tied
        self._made_of = names_in_memory(tensors)
        self._norms: dict[str, float] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the whole checkpoint: what is read of it is at most that."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def of(self, factors: Factors) -> tuple[float | None, str]:
        """The norm of the weight that ``factors`` update; or None, and why.

        Raises:
            LoraCliError: what the source raises.
        """
        path = factors.parameter or f"{factors.module}.weight"
        names = self._made_of.get(path) or self._made_of.get(self._tied.get(path, ""), ())
        tensors = [self._tensors[name] for name in names]
        if reason := _unfit(tensors, factors):
            return None, reason
        for tensor in tensors:
            if tensor.name not in self._norms:
                self._norms[tensor.name] = self._norm(tensor)
        norm = math.hypot(*(self._norms[tensor.name] for tensor in tensors))
        return (norm, "") if math.isfinite(norm) and norm > 0 else (None, "the base's weights are zero, or not finite")

    def _norm(self, tensor: TensorInfo) -> float:
        file = self._revision.file(tensor.file)
        if file is None:
            raise FormatError("is gone: it was there a moment ago", where=tensor.file)
        total = 0.0
        for _, piece in pieces(self._source, self._revision, file, [tensor]):
            found = usual(tensor.dtype, piece) or measure(tensor.dtype, piece, numpy=True)
            total += found.norm**2
        return math.sqrt(total)


def _unfit(tensors: list[TensorInfo], factors: Factors) -> str:
    if not tensors:
        return "the base's checkpoint has no such weight"
    if any(tensor.dtype not in MEASURED for tensor in tensors):
        return "the base's weights are quantised"
    if sum(math.prod(tensor.shape) for tensor in tensors) != factors.experts * factors.d_out * factors.d_in:
        return "the base's weight is of another shape"
    return ""


def base_norms(source: Source, revision: Revision, tied: Mapping[str, str]) -> BaseNorms | None:
    """The weights of the checkpoint at ``revision``, by its headers; None where there is none as safetensors.

    Raises:
        FormatError: index or header is malformed, or a shard is missing.
        LoraCliError: what the source raises.
    """
    tensors = read_checkpoint(source, revision)
    return BaseNorms(source, revision, tensors, tied=tied) if tensors else None


def base_norms_of(path: Path, tied: Mapping[str, str]) -> BaseNorms | None:
    """The same of a folder of this machine, or of one safetensors file. Raises as ``base_norms``."""
    source = LocalSource()
    if not path.is_file():
        return base_norms(source, source.resolve(AdapterRef("file", str(path))), tied)
    revision = source.resolve(AdapterRef("file", str(path.parent)))
    file = revision.file(path.name) if path.suffix == ".safetensors" else None
    return None if file is None else BaseNorms(source, revision, read_header(source, revision, file).tensors, tied=tied)
