"""The shapes that a checkpoint's weights have once they are unpacked, as far as headers tell.

Layouts: AutoGPTQ and GPTQModel (``qweight`` int32, packed along d_in), AutoAWQ (packed along d_out), bitsandbytes,
compressed-tensors, MXFP4 (gpt-oss), HQQ and AQLM; for the last five a header does not hold the dimensions.
"""

from collections.abc import Mapping

from lora_cli.core.safetensors import TensorInfo
from lora_cli.errors import FormatError

HINT = "name the unquantised model as the base, or one whose config.json is of a known family"

OPAQUE = {
    "absmax": "bitsandbytes 4-bit",
    "weight_packed": "compressed-tensors",
    "gate_up_proj_blocks": "MXFP4",
    "W_q": "HQQ",
    "codes": "AQLM",
}
"""Last names that betray a layout whose headers do not tell the dimensions."""

SCALED = {"weight_scale_inv": "fp8", "weight_scale": "compressed-tensors", "SCB": "bitsandbytes 8-bit"}
"""Companions of a weight that is quantised and still has its own shape."""


def unpacked(tensors: Mapping[str, TensorInfo]) -> tuple[dict[str, tuple[int, ...]], str]:
    """Shape by name, each packed weight under ``<module>.weight`` with the shape that it stands for, and the method.

    The method is empty for a checkpoint that is not quantised.

    Raises:
        FormatError: the checkpoint is quantised in a way that hides the dimensions.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    method = ""
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        _refuse_opaque(name, leaf, tensor)
        if leaf == "qweight":
            shapes[f"{path}.weight"], method = _packed(path, tensor, tensors)
        elif leaf in SCALED:
            method = method or SCALED[leaf]
        elif leaf not in ("qzeros", "scales", "g_idx"):
            shapes[name] = tensor.shape
    return shapes, method


def _refuse_opaque(name: str, leaf: str, tensor: TensorInfo) -> None:
    method = OPAQUE.get(leaf, "")
    if not method and leaf == "weight" and tensor.dtype == "U8":
        method = "two 4-bit values a byte"
    if method:
        reason = f"the checkpoint is quantised ({method}), and its header does not tell the dimensions of {name}"
        raise FormatError(reason, where=tensor.file, hint=HINT)


def _packed(path: str, qweight: TensorInfo, tensors: Mapping[str, TensorInfo]) -> tuple[tuple[int, ...], str]:
    """``[d_out, d_in]`` of one GPTQ or AWQ module."""
    scales = tensors.get(f"{path}.scales")
    if scales is None or len(scales.shape) != 2 or len(qweight.shape) != 2:
        raise FormatError(f"{path}: qweight without scales of its shape", where=qweight.file, hint=HINT)
    d_out, (rows, columns) = scales.shape[1], qweight.shape
    if columns != d_out:
        return (d_out, rows), "awq"
    order, zeros = tensors.get(f"{path}.g_idx"), tensors.get(f"{path}.qzeros")
    if order is not None and len(order.shape) == 1:
        return (d_out, order.shape[0]), "gptq"
    bits = zeros.shape[1] * 32 // d_out if zeros is not None and len(zeros.shape) == 2 and d_out else 0
    if not bits:
        raise FormatError(f"{path}: neither g_idx nor qzeros tell how qweight is packed", where=qweight.file, hint=HINT)
    return (d_out, rows * 32 // bits), "gptq"
