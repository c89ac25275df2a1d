"""How large the weights of a base are: Frobenius norms from its checkpoint, streamed, in bounded memory."""

import math
from collections.abc import Mapping, Sequence

from lora_cli.core.factors import Factors
from lora_cli.core.tensor_info import TensorInfo
from lora_cli.errors import FormatError
from lora_cli.reading.checkpoint import Checkpoint
from lora_cli.reading.pieces import pieces
from lora_cli.reading.tensor_values import MEASURED, measure


class BaseNorms:
    """A checkpoint's weights and the norms of those that were asked for; safe to be asked by several threads."""

    def __init__(self, checkpoint: Checkpoint, *, tied: Mapping[str, str] = {}) -> None:
        """``tied`` names the parameter that another one, not stored, is."""
        self.checkpoint, self._tied = checkpoint, tied
        self._made_of = checkpoint.in_memory()
        self._norms: dict[str, float] = {}

    def of(self, factors: Factors) -> tuple[float | None, str]:
        """The norm of the weight that ``factors`` update; or None, and why.

        Raises:
            LoraCliError: what the source raises.
        """
        path = factors.parameter or f"{factors.module}.weight"
        tensors = self._made_of.get(path) or self._made_of.get(self._tied.get(path, ""), ())
        if reason := _unfit(tensors, factors):
            return None, reason
        for tensor in tensors:
            if tensor.name not in self._norms:
                self._norms[tensor.name] = self._norm(tensor)
        norm = math.hypot(*(self._norms[tensor.name] for tensor in tensors))
        return (norm, "") if math.isfinite(norm) and norm > 0 else (None, "the base's weights are zero, or not finite")

    def _norm(self, tensor: TensorInfo) -> float:
        file = self.checkpoint.revision.file(tensor.file)
        if file is None:
            raise FormatError("is gone: it was there a moment ago", where=tensor.file)
        total = 0.0
        for _, piece in pieces(self.checkpoint.source, self.checkpoint.revision, file, [tensor]):
            total += measure(tensor.dtype, piece).norm ** 2
        return math.sqrt(total)


def _unfit(tensors: Sequence[TensorInfo], factors: Factors) -> str:
    if not tensors:
        return "the base's checkpoint has no such weight"
    if any(tensor.dtype not in MEASURED for tensor in tensors):
        return "the base's weights are quantised"
    if sum(math.prod(tensor.shape) for tensor in tensors) != factors.experts * factors.d_out * factors.d_in:
        return "the base's weight is of another shape"
    return ""
