"""A whole model through transformers, with an adapter composed onto its modules by forward hooks."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_cli.base.base_model import BaseModule
from lora_cli.errors import FormatError, Refused
from lora_cli.warm.forward import add_lora
from lora_cli.warm.variants import Variant, variant
from lora_cli.warm.weights import ExtraWeights, LoadedAdapter, ModuleWeights


def load_model(directory: Path, *, dtype: torch.dtype, device: torch.device | str) -> nn.Module:
    """The causal language model in ``directory``, from its safetensors files. No network, no code of its own.

    Raises:
        FormatError: transformers cannot load it, or the checkpoint lacks weights (they would be random).
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            directory,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"transformers cannot load it: {first_line(error)}", where=str(directory)) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise FormatError(
            f"its checkpoint lacks {len(missing)} weights, the first is {missing[0]}", where=str(directory)
        )
    loaded: nn.Module = model.to(device).eval()
    return loaded


def first_line(error: Exception) -> str:
    """What it says in its first line, else its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@dataclass(frozen=True, slots=True)
class Slot:
    """An adapter on the device, with the forward of its extra weights by module path."""

    adapter: LoadedAdapter
    variants: Mapping[str, Variant]


class ComposedModel:
    """A model whose modules add the LoRA path of one adapter at a time, to all rows of a batch.

    Linear, Conv1D and plain or scaled embeddings of ``modules``, which are the base's, can be composed.
    """

    origin = "base"

    def __init__(self, model: nn.Module, modules: Mapping[str, BaseModule]) -> None:
        self.model, self._modules = model, modules
        self._now: Slot | None = None
        self._hooked: set[str] = set()
        self._found = dict(model.named_modules())

    def variants(self, adapter: LoadedAdapter) -> dict[str, Variant]:
        """The forward of an adapter's extra weights, by module path.

        Raises:
            Refused: the model has no such module or parameter.
        """
        return {
            path: variant(path, self._found.get(path), extra, self._merged(adapter, path, extra), self.device)
            for path, extra in adapter.extra.items()
        }

    def weight(self, module: str) -> torch.Tensor:
        """``[d_out, d_in]``, for a Conv1D too; ``[vocabulary, width]`` for an embedding."""
        found = self.model.get_submodule(module)
        weight = found.weight
        assert isinstance(weight, torch.Tensor)
        return weight.detach().t() if type(found).__name__ == "Conv1D" else weight.detach()

    def refuse(self, name: str, modules: Iterable[str]) -> None:
        """Raises ``Refused`` for the adapter ``name`` if one of its ``modules`` cannot be composed."""
        for path in modules:
            if reason := _why_not(self._found, path, self._modules[path]):
                raise Refused(f"{name}: {path} {reason}", hint="--forward modules checks it without the model")

    def logits(self, ids: torch.Tensor, slot: Slot | None) -> torch.Tensor:
        """Logits ``[rows, tokens, vocabulary]`` of token ids ``[rows, tokens]``, at least in float32."""
        with torch.inference_mode(), self.using(slot):
            output: torch.Tensor = self.model(input_ids=ids, use_cache=False).logits
        return output if output.dtype == torch.float64 else output.float()

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return next(self.model.parameters()).device

    @contextmanager
    def using(self, slot: Slot | None) -> Iterator[None]:
        """Within the block the model's batches have this adapter; None is the base."""
        for path in {*slot.adapter.modules, *slot.variants} - self._hooked if slot is not None else ():
            self._hooked.add(path)
            self._found[path].register_forward_hook(self._hook(path), with_kwargs=True)
        self._now = slot
        try:
            yield
        finally:
            self._now = None

    def _hook(self, path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
            if (now := self._now) is None:
                return output
            factors, one = now.adapter.modules.get(path), now.variants.get(path)
            if one is not None:
                output = one.renewed(module, args, kwargs, output)
            if factors is not None:
                output = _with_lora(factors, module, args[0] if args else next(iter(kwargs.values())), output)
            return output if one is None else one.finished(output)

        return hook

    def _merged(self, adapter: LoadedAdapter, path: str, extra: ExtraWeights) -> torch.Tensor | None:
        """``W + s*B*A`` ``[d_out, d_in]`` of a module with a DoRA magnitude and factors."""
        factors = adapter.modules.get(path)
        if extra.magnitude is None or factors is None:
            return None
        weight = self.weight(path).t() if factors.embedding else self.weight(path)
        return weight.float() + factors.scaling * (factors.b.float() @ factors.a.float())


def _with_lora(factors: ModuleWeights, module: nn.Module, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    d_out = factors.b.shape[0]
    flat = x.reshape(-1) if factors.embedding else x.reshape(-1, factors.a.shape[1])
    # Only embeddings are asked: the lookup of a missing attribute takes longer than a product.
    scale: torch.Tensor | None = getattr(module, "embed_scale", None) if factors.embedding else None
    if scale is None:
        return add_lora(output.reshape(-1, d_out), flat, factors).view_as(output)
    return output + add_lora(torch.zeros_like(output).view(-1, d_out), flat, factors).view_as(output) * scale


def _why_not(found: Mapping[str, nn.Module], path: str, base: BaseModule) -> str:
    """Why LoRA cannot be composed onto a module of the real model; empty when it can."""
    from transformers.pytorch_utils import Conv1D

    module = found.get(path)
    if module is None:
        return "is not a module of the model that transformers builds"
    if isinstance(found.get(path.rpartition(".")[0]), nn.MultiheadAttention):
        return "is used by nn.MultiheadAttention without being called"
    if base.kind == "embedding":
        if not isinstance(module, nn.Embedding) or not (type(module) is nn.Embedding or hasattr(module, "embed_scale")):
            return f"is a {type(module).__name__}, which cannot be composed yet"
        shape: tuple[Any, Any] = (module.num_embeddings, module.embedding_dim)
    elif type(module) is nn.Linear:
        shape = (module.in_features, module.out_features)
    elif type(module) is Conv1D:
        shape = (module.nx, module.nf)
    else:
        return f"is a {type(module).__name__}, which cannot be composed yet"
    if shape == (base.d_in, base.d_out):
        return ""
    return f"maps {shape[0]} to {shape[1]} in the model and {base.d_in} to {base.d_out} in its config"
