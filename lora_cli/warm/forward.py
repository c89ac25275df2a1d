"""The LoRA path of one module: ``y += scaling * B @ (A @ x)`` (Hu et al., arXiv 2106.09685), in place."""

from collections.abc import Sequence

import torch

from lora_cli.warm.weights import ModuleWeights

ALL = (slice(None),)


def add_lora(output: torch.Tensor, x: torch.Tensor, module: ModuleWeights, rows: Sequence[slice] = ALL) -> torch.Tensor:
    """Adds the LoRA path to these ``rows`` of a module's base ``output`` ``[tokens, d_out]``, and returns it.

    ``x`` is ``[tokens, d_in]``, or ``[tokens]`` token ids for an embedding. Each run of rows is a product of its own:
    other tokens keep their bits, and not even a NaN reaches them.
    """
    for part in rows:
        shrunk = _shrunk(x[part], module)
        out = output[part]
        if out.dtype == module.b.dtype:
            out.addmm_(shrunk, module.b.t(), alpha=module.scaling)
        else:
            out.add_(shrunk @ module.b.t(), alpha=module.scaling)
    return output


def lora_delta(x: torch.Tensor, module: ModuleWeights, rows: Sequence[slice] = ALL) -> torch.Tensor:
    """The LoRA path of ``rows``, ``[tokens, d_out]`` in the factors' dtype; zeros elsewhere."""
    zeros = torch.zeros(len(x), module.b.shape[0], dtype=module.b.dtype, device=x.device)
    return add_lora(zeros, x, module, rows)


def _shrunk(x: torch.Tensor, module: ModuleWeights) -> torch.Tensor:
    """``A @ x`` for each token, ``[tokens, r]``."""
    if module.embedding:
        return module.a[:, x].t()
    return x.to(module.a.dtype) @ module.a.t()
