"""A whole model through transformers: an adapter composed onto its modules by hooks, its effect, and its tokenizer."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_cli.base.base_model import BaseModule
from lora_cli.errors import FormatError, Refused, UsageError
from lora_cli.results import Moved
from lora_cli.warm.plan import Plan
from lora_cli.warm.variants import Variant, variant
from lora_cli.warm.weights import ExtraWeights, LoadedAdapter, ModuleWeights, add_lora

CHECK_TOKENS = 16
"""Of the seeded prompt with which an adapter's effect on the whole model is measured."""


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


class FullModel(ComposedModel):
    """The whole model of the plan's checkpoint, and its tokenizer, which is loaded with the first prompt.

    Raises:
        FormatError: transformers cannot load it.
    """

    def __init__(self, plan: Plan, dtype: torch.dtype, device: torch.device) -> None:
        assert plan.base_directory is not None
        self._directory = plan.base_directory
        super().__init__(load_model(self._directory, dtype=dtype, device=device), plan.base.modules)
        generator = torch.Generator().manual_seed(0)
        self._ids = torch.randint(plan.base.vocab_size or 2, (1, CHECK_TOKENS), generator=generator).to(device)
        self._base_logits: torch.Tensor | None = None

    @cached_property
    def _tokenizer(self) -> tuple[Any, str]:
        """The base's tokenizer, by transformers, or None and why; no code of its own is run."""
        from transformers import AutoTokenizer

        try:
            found = AutoTokenizer.from_pretrained(self._directory, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            return None, first_line(error)
        return found, ""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens, with all spaces; empty without a tokenizer."""
        tokenizer, _why = self._tokenizer
        return "" if tokenizer is None else str(tokenizer.decode(list(ids), skip_special_tokens=True))

    @property
    def ends(self) -> frozenset[int]:
        """Token ids that end an answer, by the tokenizer and by the model's ``generation_config``."""
        ends = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        own = getattr(self._tokenizer[0], "eos_token_id", None)
        return frozenset(end for end in (*(ends if isinstance(ends, list) else [ends]), own) if isinstance(end, int))

    def prompt_ids(self, prompt: str | tuple[int, ...], max_tokens: int) -> tuple[int, ...]:
        """The prompt as token ids that the model has, with room for the answer.

        Raises:
            UsageError: they are none.
            FormatError: it is text, and there is no tokenizer.
        """
        tokenizer, why = self._tokenizer
        if isinstance(prompt, str) and tokenizer is None:
            raise FormatError(
                f"has no tokenizer that transformers can load: {why}",
                where=str(self._directory),
                hint="put the base's tokenizer files next to its config.json, or send token ids",
            )
        ids = tuple(tokenizer(prompt)["input_ids"]) if isinstance(prompt, str) else prompt
        if not ids:
            raise UsageError("the prompt is empty")
        embedding: nn.Embedding = self.model.get_input_embeddings()  # type: ignore[operator]
        if max(ids) >= embedding.num_embeddings or min(ids) < 0:
            raise UsageError(f"the prompt has token ids beyond the vocabulary of {embedding.num_embeddings}")
        config = self.model.config
        most = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        if isinstance(most, int) and len(ids) + max_tokens > most:
            raise UsageError(
                f"the prompt has {len(ids)} tokens and max_tokens is {max_tokens}: the model's context has {most}"
            )
        return ids

    def check(self, slot: Slot) -> Moved:
        """The effect on the next token, over a few seeded ones.

        Raises:
            Refused: a logit is not finite, or none changed.
        """
        if self._base_logits is None:
            self._base_logits = self.logits(self._ids, None)
        logits, base_logits = self.logits(self._ids, slot), self._base_logits
        if not bool(torch.isfinite(logits).all()):
            raise Refused("the whole model's logits are not finite with this adapter")
        delta = float((logits - base_logits).abs().max())
        if not delta:
            raise Refused("the whole model's logits are bit-identical to the base's: the adapter changes nothing")
        base, adapted = base_logits.double().log_softmax(-1), logits.double().log_softmax(-1)
        kl = (base.exp() * (base - adapted)).sum(-1).mean()
        changed = logits.argmax(-1) != base_logits.argmax(-1)
        return Moved(delta, max(0.0, float(kl)), int(changed.sum()), changed.numel())
