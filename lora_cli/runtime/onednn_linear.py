"""Linear layers on a CPU through oneDNN, their weights in the order in which its kernels read them.

For float32 torch takes MKL, which on processors that are not Intel's has half of oneDNN's speed; and oneDNN puts a
plain weight in order again for every call. Only the order of additions differs.
"""

import ctypes
from collections import Counter
from typing import Any

import torch
from torch import nn

NOTHING_FUSED: tuple[Any, ...] = ("none", [], "")
"""What ``mkldnn::_linear_pointwise`` takes behind input, weight and bias."""


class OneDnnLinear(nn.Linear):
    """``x @ weight.T + bias`` for inference, with a weight that other modules may share."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[..., in_features]`` to ``[..., out_features]``."""
        if torch.is_grad_enabled() or not input.numel():
            return super().forward(input)
        return self._product(input, self.weight)

    def _product(self, input: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, self.bias, *NOTHING_FUSED)
        return output


class PackedLinear(OneDnnLinear):
    """The same with a weight of its own, ``packed`` as oneDNN reads it; ``weight`` is an unpacked copy."""

    packed: torch.Tensor

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """``[out_features, in_features]``, created again each time."""
        return self.packed.to_dense()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[..., in_features]`` to ``[..., out_features]``."""
        if torch.is_grad_enabled() or not input.numel():
            return nn.functional.linear(input, self.weight, self.bias)
        return self._product(input, self.packed)


def through_onednn(model: nn.Module) -> nn.Module:
    """The same model, whose plain linear layers are oneDNN's where this machine has it."""
    if not has_onednn():
        return model
    users = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    dtypes = onednn_dtypes()
    for module in model.modules():
        if type(module) is not nn.Linear or module.weight.device.type != "cpu" or module.weight.dtype not in dtypes:
            continue
        if users[id(module.weight)] == 1:
            _pack(module)
        elif module.weight.dtype is torch.float32:
            _become(module, OneDnnLinear)
    _release_memory()
    return model


def unpack(module: nn.Module) -> None:
    """Makes the weight of a packed module a parameter again, which can be replaced."""
    if isinstance(module, PackedLinear):
        weight = nn.Parameter(module.weight, requires_grad=False)
        del module.packed
        _become(module, OneDnnLinear)
        module.register_parameter("weight", weight)


def has_onednn() -> bool:
    """Whether this torch has oneDNN, with kernels of its own for this processor."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    has = all(hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight"))
    return there and has and "AVX" in torch.backends.cpu.get_cpu_capability()


def onednn_dtypes() -> frozenset[torch.dtype]:
    """The dtypes of weights that oneDNN can reorder on this processor: bfloat16 needs AVX-512 (BW, VL and DQ)."""
    has_bfloat16 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return frozenset({torch.float32, torch.bfloat16} if has_bfloat16 else {torch.float32})


def _pack(module: nn.Linear) -> None:
    packed = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach(), None)
    del module.weight
    _become(module, PackedLinear)
    module.packed = packed


def _release_memory() -> None:
    """Makes glibc's allocator release the memory of plain weights, much of which it would keep."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _become(module: nn.Module, kind: type[OneDnnLinear]) -> None:
    module.__class__ = kind
