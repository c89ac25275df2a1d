"""The LoRA path of one module for a batch in which every token has its own slot.

``y[t] += scaling[s] * B[s] @ (A[s] @ x[t])`` with ``s`` the token's slot; a token of slot 0 is the base's and is not
touched. Tokens that are one after the other are a segment (Punica, arXiv 2310.18547), and neighbouring slots of one
rank class with as many tokens each are one batched product on views of the storage: nothing is gathered. Each slot is
an entry of its own in that product, so nothing of one adapter can reach another's tokens, not even a NaN. Tokens in any
order give the right result; a batch sorted by slot gives it in the fewest products.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from lora_cli.runtime.lora_slots import Slots, Stack


@dataclass(frozen=True, slots=True)
class Segment:
    """From token ``start`` on, ``tokens`` for each of ``count`` neighbouring slots from ``slot`` on, in their order."""

    start: int
    tokens: int
    slot: int
    count: int
    rank_class: int

    @property
    def stop(self) -> int:
        """The first token behind it."""
        return self.start + self.tokens * self.count


@dataclass(frozen=True, slots=True)
class Bound:
    """A segment with one module's factors: ``a`` is ``[count, d_in, class]``, ``b`` is ``[count, class, d_out]``.

    Its tokens are ``rows`` of a batch, and ``[count, tokens, …]`` as a ``shape``. ``scaling`` is ``[count, 1, 1]``; or
    all are ``alpha`` times what they say, as a product takes it for nothing.
    """

    rows: slice
    shape: tuple[int, int, int]
    a: torch.Tensor
    b: torch.Tensor
    scaling: torch.Tensor | None
    alpha: float


def route(slot_of_row: Sequence[int], slots: Slots, tokens: int = 1) -> tuple[Segment, ...]:
    """The segments of a batch whose rows have ``tokens`` tokens each, of the slots that are there now."""
    found: list[Segment] = []
    row = 0
    for slot, same in groupby(slot_of_row):
        start, rows = row, len(list(same))
        row += rows
        if not slots.on(slot):
            continue
        one = Segment(start * tokens, rows * tokens, slot, 1, slots.rank_class(slot))
        if found and _next_to(found[-1], one):
            found[-1] = replace(found[-1], count=found[-1].count + 1)
        else:
            found.append(one)
    return tuple(found)


def bind(stack: Stack, segments: Iterable[Segment]) -> tuple[Bound, ...]:
    """The factors of one module for each segment."""
    bound = []
    for segment in segments:
        factors = stack.factors[segment.rank_class]
        those = slice(segment.slot - factors.first, segment.slot - factors.first + segment.count)
        scaling = stack.scaling[segment.slot : segment.slot + segment.count, None, None]
        alpha = _common_scaling(scaling)
        per_slot, alpha = (scaling, 1.0) if alpha is None else (None, alpha)
        rows, shape = slice(segment.start, segment.stop), (segment.count, segment.tokens, -1)
        bound.append(
            Bound(rows, shape, factors.a[those].transpose(1, 2), factors.b[those].transpose(1, 2), per_slot, alpha)
        )
    return tuple(bound)


def add_lora(output: torch.Tensor, x: torch.Tensor, bound: Iterable[Bound]) -> torch.Tensor:
    """Adds the LoRA path to a module's base ``output`` ``[tokens, d_out]``, in place, and returns it.

    ``x`` is ``[tokens, d_in]``, or ``[tokens]`` token ids for an embedding. Tokens of slot 0 keep their bits.
    """
    for one in bound:
        shrunk = _shrunk(x[one.rows], one)
        if one.scaling is not None:
            shrunk.mul_(one.scaling)
        out = output[one.rows].view(one.shape)
        if out.dtype == one.b.dtype:
            out.baddbmm_(shrunk, one.b, alpha=one.alpha)
        else:
            out.add_(torch.bmm(shrunk, one.b), alpha=one.alpha)
    return output


def _common_scaling(scaling: torch.Tensor) -> float | None:
    """The common scaling of all slots, if there is one; None on a device, which would have to be waited for."""
    if scaling.device.type != "cpu":
        return None
    first, *others = scaling.flatten().tolist()
    return first if all(one == first for one in others) else None


def lora_delta(x: torch.Tensor, stack: Stack, segments: Iterable[Segment]) -> torch.Tensor:
    """The LoRA path of every token of ``x``, ``[tokens, d_out]`` in the slots' dtype; zeros for tokens of the base."""
    zeros = torch.zeros(len(x), stack.d_out, dtype=next(iter(stack.factors.values())).b.dtype, device=x.device)
    return add_lora(zeros, x, bind(stack, segments))


def _shrunk(x: torch.Tensor, one: Bound) -> torch.Tensor:
    """``A @ x`` for the tokens of a segment, ``[count, tokens, class]``."""
    if x.dtype == one.a.dtype:
        return torch.bmm(x.view(one.shape), one.a)
    if x.is_floating_point():
        return torch.bmm(x.to(one.a.dtype).view(one.shape), one.a)
    index = x.view(*one.shape[:2], 1).expand(-1, -1, one.a.shape[2])
    return one.a.gather(1, index)


def _next_to(before: Segment, one: Segment) -> bool:
    """Whether two segments are one product: tokens and slots follow each other, and are alike."""
    follows = (before.stop, before.slot + before.count) == (one.start, one.slot)
    return follows and (before.tokens, before.rank_class) == (one.tokens, one.rank_class)
