r"""The proof that an adapter in its slot does what its files say, module by module.

For every module: the base's output plus the LoRA path, as a server computes it in ``dtype``, is held against the
merged weights ``W + s*B*A`` in float64, with A and B straight from the file and ``s`` from the config. Base rows of the
same batch must keep their bits.

**Tolerance.** Let ``u`` be half of ``torch.finfo(dtype).eps`` (one rounding), ``v`` half the eps of the accumulator
(float32 below 32 bits, else ``dtype`` itself), ``n`` the length of a reduction. The error of a sum of ``n`` products
drifts like a random walk: at most ``λ·√n·v`` of the sum of their absolute values, with λ = 4 (Higham and Mary, "A new
approach to probabilistic rounding error analysis", 2019). So, with maxima over the outputs checked:

- base path: one product over ``d_in`` and one rounding: ``(λ·v·√d_in + u)·max|base|``;
- LoRA path: products over ``d_in`` and ``r``, and five roundings (A, B, A·x, its scaling, the result). B·A may nearly
  cancel, so what counts is not the size of ``Δ`` but that of the products it is the sum of. Over ``d_in`` their signs
  are random, as those of ``x`` are: whatever A is, sums and roundings stay near the root of the sum of squares.
  ``path = s·max((λ·v·√d_in + λ·u)·|B|·√(A²·x²) + (λ·v·√r + 4u)·|B|·|A·x|)``;
- their sum: one rounding: ``u·max|merged|``.

``tolerance = ((λ·v·√d_in + u)·max|base| + path + u·max|merged|) / max|merged|``

That check is blind to an adapter whose whole effect is smaller than the tolerance. Therefore the LoRA path is held
against ``s·B·(A·x)`` on its own as well, within ``path``: a wrong scale is found however small the effect is.
**"Differs from the base"** needs no threshold: ``moved`` is the LoRA path's own output, which is exactly zero without
an adapter, taken before it is rounded into the base's (in bfloat16 that may swallow a small one).

Underflow is not in these formulas: float32 and bfloat16, which the runtime uses, reach down to 1e-38.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from lora_cli.results import ModuleProof, Proof
from lora_cli.runtime.adapter_weights import LoraWeights, ModuleWeights
from lora_cli.runtime.base_weights import BaseWeights
from lora_cli.runtime.lora_forward import add_lora, bind, lora_delta, route
from lora_cli.runtime.lora_slots import BASE_SLOT, Slots

TOKENS = 8
"""Tokens that use the adapter; as many base tokens are between them."""

NO_EFFECT = "changes nothing: its output is identical to the base's"

LAMBDA = 4.0
BLOCK_ELEMENTS = 1 << 22
"""Weights are widened to float64 in pieces of at most this many elements (32 MiB)."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """One module's outputs for the adapter's tokens, ``[TOKENS, d_out]`` each; ``merged`` and ``want`` in float64.

    ``delta`` is the LoRA path's own output, ``want`` what it should be, and ``path`` what rounding explains between
    them. ``base_kept`` says whether the base tokens of the batch kept their bits.
    """

    base: torch.Tensor
    composed: torch.Tensor
    merged: torch.Tensor
    delta: torch.Tensor
    want: torch.Tensor
    path: float
    base_kept: bool


def prove(
    slots: Slots,
    slot: int,
    weights: LoraWeights,
    base: BaseWeights,
    *,
    seed: int = 0,
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Proof:
    """Check every module of ``weights`` in ``slot``. Inputs are seeded; the same call gives the same proof.

    A module whose update is zero in the file (it was not trained, or a repair added it) must leave the base's output
    unchanged. An adapter of which no module changes anything fails.

    Each module is checked within a ``turn`` of its own: between two of them others may use the device.
    """
    modules = []
    with torch.inference_mode():
        for path, module in weights.modules.items():
            with turn():
                modules.append(_prove_module(path, slots, slot, module, base, seed))
    if not any(module.moved for module in modules):
        modules = [replace(module, reason=module.reason or NO_EFFECT) for module in modules]
    holds = bool(modules) and all(not module.reason for module in modules)
    return Proof(tuple(modules), base.origin, str(slots.dtype).removeprefix("torch."), holds)


def tolerances(dtype: torch.dtype, d_in: int, r: int) -> tuple[float, float, float]:
    """Relative rounding errors: of the base path, of the products over ``d_in``, and of those over ``r``."""
    u = torch.finfo(dtype).eps / 2
    v = torch.finfo(torch.float32 if dtype.itemsize < 4 else dtype).eps / 2
    inner = LAMBDA * v * math.sqrt(d_in)
    return inner + u, inner, LAMBDA * v * math.sqrt(r) + 4 * u


def _prove_module(
    path: str, slots: Slots, slot: int, module: ModuleWeights, base: BaseWeights, seed: int
) -> ModuleProof:
    x = _inputs(module, slots, seed)
    outputs = _outputs(x, path, slots, slot, module, base.weight(path))
    reduction = 1 if module.embedding else module.a.shape[1]
    base_rounding, _, _ = tolerances(slots.dtype, reduction, module.rank)
    size = _largest(outputs.merged) or sys.float_info.min
    u = torch.finfo(slots.dtype).eps / 2
    tolerance = (base_rounding * _largest(outputs.base) + outputs.path + u * _largest(outputs.merged)) / size
    error = _largest(outputs.composed.double() - outputs.merged) / size
    moved = _largest(outputs.delta) / size
    proof = ModuleProof(path, error, moved, tolerance)
    reason = _not_finite(path, slots, slot, outputs) or why_wrong(proof, outputs)
    return ModuleProof(path, error, moved, tolerance, reason)


def _inputs(module: ModuleWeights, slots: Slots, seed: int) -> torch.Tensor:
    """``[2 * TOKENS, d_in]`` standard normal in the slots' dtype; for an embedding ``[2 * TOKENS]`` token ids.

    An embedding's A is zero for every token that training never saw, so half of the adapter's ids are those with the
    largest columns of A.
    """
    generator = torch.Generator().manual_seed(seed)
    device, vocabulary = slots.storage.device, module.a.shape[1]
    if not module.embedding:
        return torch.randn(2 * TOKENS, vocabulary, generator=generator).to(device, slots.dtype)
    ids = torch.randint(vocabulary, (2 * TOKENS,), generator=generator)
    columns = module.a.float().abs().amax(0)
    trained = columns.topk(min(TOKENS // 2, vocabulary)).indices.cpu()
    ids[: 2 * len(trained) : 2] = trained
    return ids.to(device)


def _outputs(
    x: torch.Tensor, path: str, slots: Slots, slot: int, module: ModuleWeights, weight: torch.Tensor
) -> Outputs:
    """Base and composed in the slots' dtype for a batch that alternates adapter and base tokens; merged in float64."""
    slot_of_token = [slot, BASE_SLOT] * TOKENS
    stack, segments = slots.stacks[path], route(slot_of_token, slots)
    a, b = module.a.to(x.device, torch.float64), module.b.to(x.device, torch.float64)
    ours = torch.tensor(slot_of_token, device=x.device) == slot
    if module.embedding:
        rows = weight[x.to(weight.device)].to(x.device, slots.dtype)
        shrunk = a[:, x[ours]].t()
        spread = shrunk.abs()
        base, want = rows, module.scaling * (shrunk @ b.t())
        merged = rows[ours].double() + want
    else:
        base, merged = _base_and_merged(x, ours, weight, (a, b, module.scaling))
        inputs = x[ours].double()
        shrunk = inputs @ a.t()
        spread = (inputs.square() @ a.square().t()).sqrt()
        want = module.scaling * (shrunk @ b.t())
    composed = add_lora(base.clone(), x, bind(stack, segments))
    kept = bool(torch.equal(composed[~ours], base[~ours]))
    explained = _explained(slots.dtype, module, shrunk, spread, b)
    delta = lora_delta(x, stack, segments)[ours].double()
    return Outputs(base[ours], composed[ours], merged, delta, want, explained, kept)


def _explained(
    dtype: torch.dtype,
    module: ModuleWeights,
    shrunk: torch.Tensor,
    spread: torch.Tensor,
    b: torch.Tensor,
) -> float:
    """``path`` above. ``shrunk`` is A·x and ``spread`` the root of A²·x², each ``[TOKENS, r]``."""
    _, inner, outer = tolerances(dtype, 1 if module.embedding else module.a.shape[1], module.rank)
    u = torch.finfo(dtype).eps / 2
    off = (inner + LAMBDA * u) * spread + outer * shrunk.abs()
    return abs(module.scaling) * _largest(off @ b.abs().t())


def _base_and_merged(
    x: torch.Tensor, ours: torch.Tensor, weight: torch.Tensor, update: tuple[torch.Tensor, torch.Tensor, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """``x @ W.T`` in x's dtype for all, and ``x @ (W + s*B*A).T`` in float64 for ours. W is ``[d_out, d_in]``."""
    a, b, scaling = update
    bases, mergeds = [], []
    for start, stop in _blocks(weight):
        block = weight[start:stop].to(x.device, x.dtype)
        bases.append(F.linear(x, block))
        mergeds.append(x[ours].double() @ torch.addmm(block.double(), b[start:stop], a, alpha=scaling).t())
    return torch.cat(bases, 1), torch.cat(mergeds, 1)


def _blocks(weight: torch.Tensor) -> Iterator[tuple[int, int]]:
    rows = max(1, BLOCK_ELEMENTS // max(1, weight.shape[1]))
    for start in range(0, weight.shape[0], rows):
        yield start, min(start + rows, weight.shape[0])


def _not_finite(path: str, slots: Slots, slot: int, outputs: Outputs) -> str:
    for name, tensor in zip(("lora_A", "lora_B"), slots.at(slot, path), strict=True):
        if not _finite(tensor):
            return f"{name} contains NaN or Inf in its slot"
    for name, tensor in (("base", outputs.base), ("composed", outputs.composed), ("merged", outputs.merged)):
        if not _finite(tensor):
            return f"the {name} output is not finite"
    return ""


def why_wrong(proof: ModuleProof, outputs: Outputs) -> str:
    """Why finite outputs with the numbers of ``proof`` prove nothing; empty when they do."""
    if proof.error > proof.tolerance:
        return f"differs from the merged weights by {proof.error:.1e} of their size; tolerance {proof.tolerance:.1e}"
    size = _largest(outputs.want)
    off = _largest(outputs.delta - outputs.want)
    if off > outputs.path:
        return f"the LoRA path differs by {off:.1e} at a size of {size:.1e}; tolerance {outputs.path:.1e}"
    if size and not proof.moved:
        return NO_EFFECT
    return "" if outputs.base_kept else "the output of a token without an adapter differs from the base's"


def _finite(tensor: torch.Tensor) -> bool:
    """Whether no element is NaN or Inf. aminmax carries both along, many times faster than ``isfinite().all()``."""
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _largest(tensor: torch.Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0
