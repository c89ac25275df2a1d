"""An adapter's weights: in the files' own dtype for the proof, and as it is held in memory and on a device."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.base.base_model import BaseModel
from lora_cli.errors import Corrupt, FormatError, MachineError, Refused
from lora_cli.text import by_key
from lora_cli.warm.composable import ExtraTensorNames, extra_tensor_names, scalings

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""safetensors' names of the floating dtypes that a factor can have."""


@dataclass(frozen=True, slots=True)
class ModuleWeights:
    """One module's update ``scaling * b @ a``: ``a`` is ``[r, d_in]``, ``b`` is ``[d_out, r]``.

    For an embedding ``d_in`` is the vocabulary.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    embedding: bool = False

    @property
    def rank(self) -> int:
        """The rank that the tensors have."""
        return self.a.shape[0]


@dataclass(frozen=True, slots=True)
class ExtraWeights:
    """One module's extra weights, in PEFT's terms.

    ``params`` are in place of the module's own, by name; ``updates`` are added to them: for all experts of a parameter
    ``a`` is ``[experts * r, d_in]`` and ``b`` is ``[d_out, r * experts]``, as PEFT saves them. ``magnitude`` is DoRA's,
    ``[d_out]``, and ``shift`` the bias on lora_B times the scaling, ``[d_out]``.
    """

    params: Mapping[str, torch.Tensor] = field(default_factory=dict)
    updates: Mapping[str, ModuleWeights] = field(default_factory=dict)
    magnitude: torch.Tensor | None = None
    shift: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """One adapter in memory or on a device, in one dtype: ``modules`` are views of ``storage``, as large as they are.

    ``extra`` are its extra weights by module path, which stay in memory.
    """

    name: str
    storage: torch.Tensor
    modules: Mapping[str, ModuleWeights]
    extra: Mapping[str, ExtraWeights] = field(default_factory=dict)

    def on(self, device: torch.device) -> "LoadedAdapter":
        """The same on a device; the factors are copied in one piece."""
        if self.storage.device.type == device.type:
            return self
        storage = self.storage.to(device, non_blocking=True)
        modules = {}
        for path, one in self.modules.items():
            a, b = (storage.as_strided(part.shape, part.stride(), part.storage_offset()) for part in (one.a, one.b))
            modules[path] = replace(one, a=a, b=b)
        return replace(self, storage=storage, modules=modules)


def hold(
    name: str,
    modules: Mapping[str, ModuleWeights],
    dtype: torch.dtype,
    extra: Mapping[str, ExtraWeights] | None = None,
    *,
    pinned: bool = False,
) -> LoadedAdapter:
    """Factors copied into one piece of memory (``pinned`` for copies to a device).

    Raises:
        Refused: a factor holds NaN or Inf.
    """
    sizes = [part.numel() for one in modules.values() for part in (one.a, one.b)]
    storage = torch.empty(sum(sizes), dtype=dtype, pin_memory=pinned)
    parts = iter(torch.split(storage, sizes))
    exact = torch.float32 if dtype.itemsize < 4 else dtype
    held = {}
    for path, one in modules.items():
        a, b = next(parts).view(one.a.shape), next(parts).view(one.b.shape)
        for what, place, values in (("lora_A", a, one.a), ("lora_B", b, one.b)):
            _refuse_not_finite(f"{name}: {path}.{what}", place.copy_(values))
        # Beyond float32 a scaling becomes infinite, which the proof finds.
        scaling = float(torch.tensor(one.scaling, dtype=torch.float64).to(exact))
        held[path] = replace(one, a=a, b=b, scaling=scaling)
    return LoadedAdapter(name, storage, held, extra or {})


def load_adapter(
    directory: Path, adapter: Adapter, base: BaseModel, dtype: torch.dtype, *, full_model: bool, pinned: bool = False
) -> LoadedAdapter:
    """Read an adapter from its files into memory; with ``full_model`` its extra weights, too.

    Raises:
        Refused: it cannot be composed, or a value is NaN or Inf.
        FormatError, Corrupt, MachineError: as ``read_weights``.
    """
    scaling = scalings(adapter, base, full_model=full_model)
    extra = read_extra_weights(directory, adapter, base, dtype) if full_model else {}
    return hold(adapter.name, read_weights(directory, adapter, scaling), dtype, extra, pinned=pinned)


def loaded_bytes(adapter: Adapter, base: BaseModel, dtype: torch.dtype, *, full_model: bool) -> int:
    """The bytes that ``load_adapter`` will hold, from the header alone."""
    infos = [info for pair in adapter.pairs.values() for info in (pair.a, pair.b) if info is not None]
    if full_model:
        named = extra_tensor_names(adapter, base).values()
        infos += [adapter.tensors[name] for one in named for name in _extra_names(one, adapter)]
    return sum(torch.Size(info.shape).numel() for info in infos) * dtype.itemsize


def read_weights(directory: Path, adapter: Adapter, scalings: Mapping[str, float]) -> dict[str, ModuleWeights]:
    """The factors of the modules in ``scalings`` (PEFT's, by module path), in the file's own dtype.

    Raises:
        FormatError: a factor has a dtype that is not a floating one, or is missing.
        Corrupt: a file does not match its header when it was checked.
        MachineError: a file cannot be read.
    """
    infos = {module: factors(adapter, module) for module in scalings}
    tensors: dict[str, torch.Tensor] = {}
    for file, members in by_key((info.file, info) for pair in infos.values() for info in pair).items():
        tensors.update(read_tensors(directory / file, members))
    return {
        module: ModuleWeights(tensors[a.name], tensors[b.name], scalings[module], adapter.pairs[module].embedding)
        for module, (a, b) in infos.items()
    }


def weight_bytes(adapter: Adapter) -> int:
    """The bytes of its factors in its files, from the header alone."""
    return sum(info.nbytes for pair in adapter.pairs.values() for info in (pair.a, pair.b) if info is not None)


def factors(adapter: Adapter, module: str) -> tuple[TensorInfo, TensorInfo]:
    """A and B of a module in the adapter's files. Raises ``FormatError`` if one of them is missing."""
    pair = adapter.pairs[module]
    if pair.a is None or pair.b is None:
        raise FormatError("has only one of its two factors", where=module)
    return pair.a, pair.b


def read_extra_weights(
    directory: Path, adapter: Adapter, base: BaseModel, dtype: torch.dtype
) -> dict[str, ExtraWeights]:
    """The extra weights by module path; empty for plain LoRA.

    Raises:
        Refused: a value is NaN or Inf.
        FormatError, Corrupt, MachineError: as ``read_weights``.
    """
    named = extra_tensor_names(adapter, base)
    tensors: dict[str, torch.Tensor] = {}
    names = [name for one in named.values() for name in _extra_names(one, adapter)]
    for file, members in by_key((adapter.tensors[name].file, name) for name in names).items():
        read = read_tensors(directory / file, [adapter.tensors[name] for name in members])
        for name in members:
            tensors[name] = read[name].to(dtype, copy=True)
            _refuse_not_finite(f"{adapter.name}: {name}", tensors[name])
    scaling = scalings(adapter, base, full_model=True)
    return {path: _extra(one, tensors, adapter, scaling.get(path, 1.0)) for path, one in named.items()}


def read_tensors(path: Path, infos: Iterable[TensorInfo]) -> dict[str, torch.Tensor]:
    """Tensors of one file by name: of a safetensors file through its library, of a pickle as views of one buffer.

    Raises: as ``read_weights``.
    """
    infos = list(infos)
    described = {info.name: (dtype_of(info), info.shape) for info in infos}
    try:
        if path.suffix != ".safetensors":
            return _view_tensors(path, infos)
        # Read and not mapped: the process would end with a file that is cut while it is mapped.
        with safe_open(path, "pt", backend="pread") as file:
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in described}
    except SafetensorError as error:
        raise Corrupt(f"{path.name} does not match its header: {error}", hint="fetch it again") from error
    except OSError as error:
        raise MachineError(f"cannot read {path}: {error.strerror or error}") from error
    for name, tensor in tensors.items():
        if (tensor.dtype, tensor.shape) != described[name]:
            raise Corrupt(f"{path.name}: {name} does not match its header", hint="fetch it again")
    return tensors


def _view_tensors(path: Path, infos: Sequence[TensorInfo]) -> dict[str, torch.Tensor]:
    start, stop = min(info.start for info in infos), max(info.stop for info in infos)
    buffer = torch.from_numpy(np.fromfile(path, np.uint8, stop - start, offset=start))
    if missing := stop - start - len(buffer):
        raise Corrupt(f"{path.name} ends {missing} bytes before the end given in its header", hint="fetch it again")
    tensors = {}
    for info in infos:
        raw, dtype = buffer[info.start - start : info.stop - start], dtype_of(info)
        raw = raw.clone() if raw.storage_offset() % dtype.itemsize else raw
        tensors[info.name] = raw.view(dtype).view(info.shape)
    return tensors


def dtype_of(info: TensorInfo) -> torch.dtype:
    """The floating-point dtype of a tensor. Raises ``FormatError`` if it has another dtype."""
    dtype = DTYPES.get(info.dtype)
    if dtype is None:
        raise FormatError(
            f"has dtype {info.dtype}, which is not a floating-point dtype", where=f"{info.file}: {info.name}"
        )
    return dtype


def _extra_names(named: ExtraTensorNames, adapter: Adapter) -> list[str]:
    experts = [info.name for wrapper, _ in named.updates.values() for info in factors(adapter, wrapper)]
    single = [name for name in (named.magnitude, named.shift) if name]
    return [*named.params.values(), *experts, *single]


def _extra(
    named: ExtraTensorNames, tensors: Mapping[str, torch.Tensor], adapter: Adapter, scaling: float
) -> ExtraWeights:
    updates = {}
    for param, (wrapper, expert_scaling) in named.updates.items():
        a, b = (tensors[info.name] for info in factors(adapter, wrapper))
        updates[param] = ModuleWeights(a, b, expert_scaling)
    return ExtraWeights(
        {param: tensors[name] for param, name in named.params.items()},
        updates,
        tensors[named.magnitude].flatten() if named.magnitude else None,
        tensors[named.shift] * scaling if named.shift else None,
    )


def _refuse_not_finite(what: str, values: torch.Tensor) -> None:
    # NaN is its own minimum and maximum. With ``isfinite`` this takes eight times as long in bfloat16.
    if values.numel() and not all(map(isfinite, torch.aminmax(values))):
        raise Refused(
            f"{what} contains NaN or Inf in {str(values.dtype).removeprefix('torch.')}",
            hint="its training diverged, or its values are too large for that dtype",
        )
