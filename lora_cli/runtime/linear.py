"""Linear layers of float32 on a CPU through oneDNN.

torch takes MKL for them, which on processors that are not Intel's has half of oneDNN's speed, for few tokens and for
many. Only the order of additions differs.
"""

from typing import Any

import torch
from torch import nn

NOTHING_FUSED: tuple[Any, ...] = ("none", [], "")
"""What ``mkldnn::_linear_pointwise`` takes behind input, weight and bias."""


class OneDnnLinear(nn.Linear):
    """``x @ weight.T + bias`` for inference."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[..., in_features]`` to ``[..., out_features]``."""
        if torch.is_grad_enabled() or not input.numel():
            return super().forward(input)
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, *NOTHING_FUSED)
        return output


def through_onednn(model: nn.Module) -> nn.Module:
    """The same model, whose plain linear layers are oneDNN's where this machine has it."""
    if not has_onednn():
        return model
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype is torch.float32 and module.weight.device.type == "cpu":
            module.__class__ = OneDnnLinear
    return model


def has_onednn() -> bool:
    """Whether this torch has oneDNN, with kernels of its own for this processor."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and hasattr(torch.ops.mkldnn, "_linear_pointwise") and "AVX" in torch.backends.cpu.get_cpu_capability()
