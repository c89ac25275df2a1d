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
    a, b = module.a, module.b
    for part in rows:
        shrunk = a[:, x[part]].t() if module.embedding else x[part].to(a.dtype) @ a.t()
        out = output[part]
        if out.dtype == b.dtype:
            out.addmm_(shrunk, b.t(), alpha=module.scaling)
        else:
            out.add_(shrunk @ b.t(), alpha=module.scaling)
    return output
