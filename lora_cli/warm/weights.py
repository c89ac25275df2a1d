"""An adapter's weights: in the files' own dtype for the proof, and as it is held in memory and on a device."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.base.base_model import BaseModel
from lora_cli.errors import Corrupt, MachineError, Refused
from lora_cli.peft.targets import scales, wrapped_parameters
from lora_cli.text import by_key
from lora_cli.warm.composable import config_on, extra_tensors, scalings


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


@dataclass(slots=True)
class ExtraWeights:
    """One module's extra weights, in PEFT's terms.

    ``params`` are in place of the module's own, by name; ``updates`` are added to them: for all experts of a parameter
    ``a`` is ``[experts * r, d_in]`` and ``b`` is ``[d_out, r * experts]``, as PEFT saves them. ``magnitude`` is DoRA's,
    ``[d_out]``, and ``shift`` the bias on lora_B times the scaling, ``[d_out]``.
    """

    params: dict[str, torch.Tensor] = field(default_factory=dict)
    updates: dict[str, ModuleWeights] = field(default_factory=dict)
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
        Corrupt, MachineError: as ``read_weights``.
    """
    scaling = scalings(adapter, base, full_model=full_model)
    extra = _extra_weights(directory, adapter, base, dtype, scaling) if full_model else {}
    return hold(adapter.name, read_weights(directory, adapter, scaling), dtype, extra, pinned=pinned)


def read_weights(directory: Path, adapter: Adapter, scalings: Mapping[str, float]) -> dict[str, ModuleWeights]:
    """The factors of the modules in ``scalings`` (PEFT's, by module path), in the file's own dtype.

    Raises:
        Corrupt: a file does not match its header.
        MachineError: a file cannot be read.
    """
    pairs = {module: _factors(adapter, module) for module in scalings}
    tensors = read_tensors(directory, [info for pair in pairs.values() for info in pair])
    return {
        module: ModuleWeights(tensors[a.name], tensors[b.name], scalings[module], adapter.pairs[module].embedding)
        for module, (a, b) in pairs.items()
    }


def read_tensors(directory: Path, infos: Iterable[TensorInfo]) -> dict[str, torch.Tensor]:
    """Tensors by name, from their safetensors files. Raises as ``read_weights``."""
    tensors: dict[str, torch.Tensor] = {}
    for name, members in by_key((info.file, info.name) for info in infos).items():
        try:
            # Read and not mapped: the process would end with a file that is cut while it is mapped.
            with safe_open(directory / name, "pt", backend="pread") as file:
                tensors |= {member: file.get_tensor(member) for member in members}
        except SafetensorError as error:
            raise Corrupt(f"{name} does not match its header: {error}", hint="fetch it again") from error
        except OSError as error:
            raise MachineError(f"cannot read {directory / name}: {error.strerror or error}") from error
    return tensors


def _factors(adapter: Adapter, module: str) -> tuple[TensorInfo, TensorInfo]:
    """A and B of a module in the files of an adapter that was judged."""
    pair = adapter.pairs[module]
    assert pair.a is not None
    assert pair.b is not None
    return pair.a, pair.b


def _extra_weights(
    directory: Path, adapter: Adapter, base: BaseModel, dtype: torch.dtype, scaling: Mapping[str, float]
) -> dict[str, ExtraWeights]:
    """The extra weights by module path; empty for plain LoRA. Raises as ``load_adapter``."""
    config = config_on(adapter, base)
    is_extra, wrapped = extra_tensors(config), wrapped_parameters(config, base.parameters)
    names = [name for name, key in adapter.keys.items() if is_extra(key)]
    experts = {wrapper: _factors(adapter, wrapper) for wrapper in wrapped if wrapper in adapter.pairs}
    infos = [*(adapter.tensors[name] for name in names), *(info for pair in experts.values() for info in pair)]
    tensors = {name: tensor.to(dtype, copy=True) for name, tensor in read_tensors(directory, infos).items()}
    for name, tensor in tensors.items():
        _refuse_not_finite(f"{adapter.name}: {name}", tensor)
    found: dict[str, ExtraWeights] = defaultdict(ExtraWeights)
    for name in names:
        key, tensor = adapter.keys[name], tensors[name]
        if key.part == "magnitude":
            found[key.module].magnitude = tensor.flatten()
        elif key.part == "lora_bias":
            found[key.module].shift = tensor * scaling.get(key.module, 1.0)
        else:
            found[key.module].params[key.param] = tensor
    scaled = scales(config, wrapped.values())
    for wrapper, (a, b) in experts.items():
        module, _, param = wrapped[wrapper].rpartition(".")
        update = ModuleWeights(tensors[a.name], tensors[b.name], scaled[wrapped[wrapper]].scaling)
        found[module].updates[param] = update
    return dict(found)


def _refuse_not_finite(what: str, values: torch.Tensor) -> None:
    # NaN is its own minimum and maximum. With ``isfinite`` this takes eight times as long in bfloat16.
    if values.numel() and not all(map(isfinite, torch.aminmax(values))):
        raise Refused(
            f"{what} contains NaN or Inf in {str(values.dtype).removeprefix('torch.')}",
            hint="its training diverged, or its values are too large for that dtype",
        )


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
