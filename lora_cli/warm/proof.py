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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from lora_cli.results import ModuleProof, Proof
from lora_cli.warm.base_weights import BaseWeights
from lora_cli.warm.weights import LoadedAdapter, ModuleWeights, add_lora

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


Step = Callable[[Callable[[], ModuleProof]], ModuleProof]


def prove(
    loaded: LoadedAdapter,
    weights: Mapping[str, ModuleWeights],
    base: BaseWeights,
    *,
    seed: int = 0,
    step: Step = lambda check: check(),
) -> Proof:
    """Check every module of ``loaded`` against ``weights``, as its files have them. Inputs are seeded.

    A module whose update is zero in the file (it was not trained, or a repair added it) must leave the base's output
    unchanged. An adapter of which no module changes anything fails.

    Each module is checked within a ``step`` of its own: between two of them others may use the device.
    """
    modules = [
        step(partial(_prove_module, path, loaded.modules[path], module, base, seed)) for path, module in weights.items()
    ]
    if not any(module.moved for module in modules):
        modules = [replace(module, reason=module.reason or NO_EFFECT) for module in modules]
    holds = bool(modules) and all(not module.reason for module in modules)
    return Proof(tuple(modules), base.origin, str(loaded.storage.dtype).removeprefix("torch."), holds)


def tolerances(dtype: torch.dtype, d_in: int, r: int) -> tuple[float, float, float]:
    """Relative rounding errors: of the base path, of the products over ``d_in``, and of those over ``r``."""
    u = torch.finfo(dtype).eps / 2
    v = torch.finfo(torch.float32 if dtype.itemsize < 4 else dtype).eps / 2
    inner = LAMBDA * v * math.sqrt(d_in)
    return inner + u, inner, LAMBDA * v * math.sqrt(r) + 4 * u


@torch.inference_mode()
def _prove_module(path: str, held: ModuleWeights, module: ModuleWeights, base: BaseWeights, seed: int) -> ModuleProof:
    dtype = held.a.dtype
    rounding = tolerances(dtype, 1 if module.embedding else module.a.shape[1], module.rank)
    outputs = _outputs(_inputs(module, dtype, held.a.device, seed), held, module, base.weight(path), rounding)
    size, u = _largest(outputs.merged) or sys.float_info.min, torch.finfo(dtype).eps / 2
    tolerance = (rounding[0] * _largest(outputs.base) + outputs.path + u * _largest(outputs.merged)) / size
    error = _largest(outputs.composed.double() - outputs.merged) / size
    proof = ModuleProof(path, error, _largest(outputs.delta) / size, tolerance)
    return replace(proof, reason=_not_finite(held, outputs) or why_wrong(proof, outputs))


def _inputs(module: ModuleWeights, dtype: torch.dtype, device: torch.device, seed: int) -> torch.Tensor:
    """``[2 * TOKENS, d_in]`` standard normal in the slot's dtype; for an embedding ``[2 * TOKENS]`` token ids.

    An embedding's A is zero for every token that training never saw, so half of the adapter's ids are those with the
    largest columns of A.
    """
    generator = torch.Generator().manual_seed(seed)
    vocabulary = module.a.shape[1]
    if not module.embedding:
        return torch.randn(2 * TOKENS, vocabulary, generator=generator).to(device, dtype)
    ids = torch.randint(vocabulary, (2 * TOKENS,), generator=generator)
    columns = module.a.float().abs().amax(0)
    trained = columns.topk(min(TOKENS // 2, vocabulary)).indices.cpu()
    ids[: 2 * len(trained) : 2] = trained
    return ids.to(device)


def _outputs(
    x: torch.Tensor,
    held: ModuleWeights,
    module: ModuleWeights,
    weight: torch.Tensor,
    rounding: tuple[float, float, float],
) -> Outputs:
    """Base and composed in the slot's dtype for a batch that alternates adapter and base tokens; merged in float64.

    ``weight`` is W, ``[d_out, d_in]``, and ``rounding`` the module's ``tolerances``.
    """
    dtype = held.a.dtype
    a, b = module.a.to(x.device, torch.float64), module.b.to(x.device, torch.float64)
    ours = torch.arange(2 * TOKENS, device=x.device) % 2 == 0
    if module.embedding:
        base = weight[x.to(weight.device)].to(x.device, dtype)
        shrunk = a[:, x[ours]].t()
        spread = shrunk.abs()
        merged = base[ours].double() + module.scaling * (shrunk @ b.t())
    else:
        inputs, bases, mergeds = x[ours].double(), [], []
        rows = max(1, BLOCK_ELEMENTS // max(1, weight.shape[1]))
        for part, b_part in zip(torch.split(weight, rows), torch.split(b, rows), strict=True):
            block = part.to(x.device, dtype)
            bases.append(F.linear(x, block))
            mergeds.append(inputs @ torch.addmm(block.double(), b_part, a, alpha=module.scaling).t())
        base, merged = torch.cat(bases, 1), torch.cat(mergeds, 1)
        shrunk = inputs @ a.t()
        spread = (inputs.square() @ a.square().t()).sqrt()
    off = (rounding[1] + LAMBDA * torch.finfo(dtype).eps / 2) * spread + rounding[2] * shrunk.abs()
    path = abs(module.scaling) * _largest(off @ b.abs().t())
    alternate = [slice(token, token + 1) for token in range(0, 2 * TOKENS, 2)]
    composed = add_lora(base.clone(), x, held, alternate)
    kept = bool(torch.equal(composed[~ours], base[~ours]))
    zeros = torch.zeros(len(x), held.b.shape[0], dtype=dtype, device=x.device)
    delta, want = add_lora(zeros, x, held, alternate)[ours].double(), module.scaling * (shrunk @ b.t())
    return Outputs(base[ours], composed[ours], merged, delta, want, path, kept)


def _not_finite(held: ModuleWeights, outputs: Outputs) -> str:
    for name, tensor in (("lora_A", held.a), ("lora_B", held.b)):
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
