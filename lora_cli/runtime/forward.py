"""The LoRA path of one module for a batch in which every token has its own slot.

``y[t] += scaling[s] * B[s] @ (A[s] @ x[t])`` with ``s`` the token's slot; a token of slot 0 is the base's and is not
touched. Tokens are grouped by slot once per batch (Punica's segments, arXiv 2310.18547) and every group is one entry
of a batched product, so nothing of one adapter can reach another's tokens, not even a NaN.
"""

import torch

from lora_cli.core.frozen import dataclass
from lora_cli.runtime.slots import BASE_SLOT, Stack


@dataclass(frozen=True, slots=True)
class Routing:
    """Which tokens use which slot, for all modules of one forward.

    ``slots`` are the distinct slots in use, ascending, without the base's. ``rows`` is ``[groups, longest]``: the
    tokens of each group, padded with 0 where ``real`` (the same shape) is False.
    """

    slots: tuple[int, ...]
    rows: torch.Tensor
    real: torch.Tensor

    @property
    def tokens(self) -> torch.Tensor:
        """The tokens that have an adapter, group by group."""
        return self.rows[self.real]


def route(slots: torch.Tensor) -> Routing:
    """Group tokens by slot. ``slots`` is ``[tokens]``, each token's slot."""
    device = slots.device
    distinct = sorted(set(slots.tolist()) - {BASE_SLOT})
    groups = [torch.nonzero(slots == slot).flatten() for slot in distinct]
    longest = max((len(group) for group in groups), default=0)
    rows = torch.zeros(len(groups), longest, dtype=torch.long, device=device)
    real = torch.zeros(len(groups), longest, dtype=torch.bool, device=device)
    for number, group in enumerate(groups):
        rows[number, : len(group)] = group
        real[number, : len(group)] = True
    return Routing(tuple(distinct), rows, real)


def lora_delta(x: torch.Tensor, stack: Stack, routing: Routing) -> torch.Tensor:
    """What LoRA adds to the output of the tokens in ``routing.tokens``: ``[those tokens, d_out]``.

    ``x`` is ``[tokens, d_in]``, or ``[tokens]`` token ids for an embedding.
    """
    a, b, scaling = (_of_slots(tensor, routing.slots) for tensor in (stack.a, stack.b, stack.scaling))
    inputs = x[routing.rows]
    if stack.embedding:
        index = inputs.unsqueeze(1).expand(-1, a.shape[1], -1)
        shrunk = a.gather(2, index).transpose(1, 2)
    else:
        shrunk = torch.bmm(inputs.to(a.dtype), a.transpose(1, 2))
    shrunk = (shrunk * scaling[:, None, None]).to(b.dtype)
    return torch.bmm(shrunk, b)[routing.real]


def add_lora(output: torch.Tensor, x: torch.Tensor, stack: Stack, routing: Routing) -> torch.Tensor:
    """Add the LoRA path to a module's base ``output`` ``[tokens, d_out]``, in place, and give it.

    Tokens of slot 0 keep their bits.
    """
    if not routing.slots:
        return output
    return output.index_add_(0, routing.tokens, lora_delta(x, stack, routing).to(output.dtype))


def _of_slots(stacked: torch.Tensor, slots: tuple[int, ...]) -> torch.Tensor:
    """The entries of ``slots``: a view where they stand side by side, else a copy."""
    first, last = slots[0], slots[-1]
    if last - first + 1 == len(slots):
        return stacked[first : last + 1]
    return stacked[list(slots)]
