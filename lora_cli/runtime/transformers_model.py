"""A whole model through transformers, with LoRA composed onto its modules by forward hooks on the slots."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_cli.errors import FormatError, Refused
from lora_cli.results import Moved
from lora_cli.runtime.lora_forward import Bound, Segment, add_lora, bind, route
from lora_cli.runtime.lora_slots import Slots, Stack
from lora_cli.runtime.variants import ExtraWeights, Variant, variant


def load_model(directory: Path, *, dtype: torch.dtype, device: str) -> nn.Module:
    """The causal language model in ``directory``, from its safetensors files. No network, no code of its own.

    Raises:
        FormatError: transformers cannot load it, or the checkpoint lacks weights (they would be random).
    """
    from transformers import AutoModelForCausalLM

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
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FormatError(f"transformers cannot load it: {said}", where=str(directory)) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise FormatError(
            f"its checkpoint lacks {len(missing)} weights, the first is {missing[0]}", where=str(directory)
        )
    loaded: nn.Module = model.to(device).eval()
    return loaded


class ComposedModel:
    """A model whose modules add, for each row of a batch, the LoRA path of that row's slot.

    ``refused`` has the modules of ``slots`` that cannot be composed here, with the reason. Linear, Conv1D and plain
    or scaled embeddings can.
    """

    origin = "base"

    def __init__(self, model: nn.Module, slots: Slots) -> None:
        self.model = model
        self.refused: dict[str, str] = {}
        self._slots = slots
        self._rows: tuple[int, ...] = ()
        self._adapted = False
        self._known: tuple[tuple[int, ...], int] = ((), 0)
        self._segments: dict[torch.Size, tuple[Segment, ...]] = {}
        self._bound: dict[tuple[str, torch.Size], tuple[Bound, ...]] = {}
        self._variants: dict[str, dict[int, Variant]] = {}
        self._hooked: set[str] = set()
        self._found = dict(model.named_modules())
        for path in slots.stacks:
            reason = _why_not(self._found, path, slots)
            if reason:
                self.refused[path] = reason
            else:
                self._hook_on(path)

    @contextmanager
    def with_extra_weights(self, slot: int, extra: Mapping[str, ExtraWeights]) -> Iterator[None]:
        """Within the block rows of ``slot`` also use its adapter's extra weights, by module path.

        Raises:
            Refused: the model has no such module or parameter.
        """
        made = {
            path: variant(path, self._found.get(path), one, self._merged(slot, path, one), self.device)
            for path, one in extra.items()
        }
        for path, one in made.items():
            self._hook_on(path)
            self._variants.setdefault(path, {})[slot] = one
        try:
            yield
        finally:
            for path in made:
                del self._variants[path][slot]

    def weight(self, module: str) -> torch.Tensor:
        """``[d_out, d_in]``, for a Conv1D too; ``[vocabulary, width]`` for an embedding."""
        found = self.model.get_submodule(module)
        weight = found.weight
        assert isinstance(weight, torch.Tensor)
        return weight.detach().t() if type(found).__name__ == "Conv1D" else weight.detach()

    def refuse(self, name: str, modules: Iterable[str]) -> None:
        """Raises ``Refused`` for the adapter ``name`` if one of its ``modules`` cannot be composed."""
        for path in modules:
            if path in self.refused:
                raise Refused(
                    f"{name}: {path} {self.refused[path]}", hint="--forward modules checks it without the model"
                )

    def logits(self, ids: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """Logits ``[rows, tokens, vocabulary]`` in float32 of token ids ``[rows, tokens]``, a slot for each row.

        Rows are sorted by slot on their way in and put back on their way out: so each module sees neighbours together.
        """
        order = sorted(range(len(rows)), key=lambda row: rows[row])
        with torch.inference_mode(), self.with_slots([rows[row] for row in order]):
            output: torch.Tensor = self.model(input_ids=ids[order], use_cache=False).logits
        back = torch.empty(len(order), dtype=torch.long)
        back[order] = torch.arange(len(order))
        # Other shapes mean that the model flattened the rows, which are then of one adapter.
        return (output[back] if len(output) == len(order) else output).float()

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return next(self.model.parameters()).device

    @contextmanager
    def with_slots(self, rows: Sequence[int]) -> Iterator[None]:
        """Within the block the model's batches have these slots, row by row.

        What is worked out for them is kept for the next step, until other rows come or a slot changes.
        """
        key = (tuple(rows), self._slots.changes)
        if key != self._known:
            self._known, self._segments, self._bound = key, {}, {}
        self._rows, self._adapted = key[0], any(rows)
        try:
            yield
        finally:
            self._rows, self._adapted = (), False

    def _hook_on(self, path: str) -> None:
        if path not in self._hooked:
            self._hooked.add(path)
            self._found[path].register_forward_hook(self._hook(path), with_kwargs=True)

    def _hook(self, path: str) -> Any:
        stack = self._slots.stacks.get(path) if path not in self.refused else None

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
            if not self._adapted:
                return output
            x: torch.Tensor = args[0] if args else next(iter(kwargs.values()))
            variants = self._variants.get(path)
            spans = self._spans(path, module, len(x)) if variants else ()
            varied = [(span, variants[slot]) for slot, span in spans if slot in variants] if variants else []
            for span, one in varied:
                one.renew(module, args, kwargs, output, span)
            if stack is not None:
                output = self._with_lora(path, stack, module, x, output)
            for span, one in varied:
                one.finish(output, span)
            return output

        return hook

    def _with_lora(
        self, path: str, stack: Stack, module: nn.Module, x: torch.Tensor, output: torch.Tensor
    ) -> torch.Tensor:
        if (bound := self._bound.get((path, x.shape))) is None:
            bound = self._bind(path, stack, x.shape)
        flat = x.reshape(-1) if stack.embedding else x.reshape(-1, stack.d_in)
        # Only embeddings are asked: the lookup of a missing attribute takes longer than a product.
        scale: torch.Tensor | None = getattr(module, "embed_scale", None) if stack.embedding else None
        if scale is None:
            return add_lora(output.reshape(-1, stack.d_out), flat, bound).view_as(output)
        return output + add_lora(torch.zeros_like(output).view(-1, stack.d_out), flat, bound).view_as(output) * scale

    def _spans(self, path: str, module: nn.Module, size: int) -> Iterator[tuple[int, slice]]:
        """Which part of a batch of ``size`` rows, or tokens, belongs to which slot.

        transformers' routers and fused experts see all tokens of the batch, row by row.
        """
        rows = len(self._rows)
        experts = any(parameter.dim() > 2 for parameter in module.parameters(recurse=False))
        experts = experts or type(module).__name__.endswith("Router")
        if len(set(self._rows)) == 1:
            yield self._rows[0], slice(0, size)
        elif size == rows or (experts and size % rows == 0):
            each = size // rows
            for row, slot in enumerate(self._rows):
                yield slot, slice(row * each, (row + 1) * each)
        else:
            raise _mixed(path)

    def _merged(self, slot: int, path: str, extra: ExtraWeights) -> torch.Tensor | None:
        """``W + s*B*A`` ``[d_out, d_in]`` of a module with a DoRA magnitude and factors in ``slot``."""
        stack = self._slots.stacks.get(path)
        if extra.magnitude is None or stack is None or path not in self._slots.on(slot):
            return None
        a, b = self._slots.at(slot, path)
        weight = self.weight(path).t() if stack.embedding else self.weight(path)
        return weight.float() + stack.scaling[slot].float() * (b.float() @ a.float())

    def _bind(self, path: str, stack: Stack, shape: torch.Size) -> tuple[Bound, ...]:
        """The factors for each segment of a module that sees a batch of that shape; kept for the next step."""
        leading = shape if stack.embedding else shape[:-1]
        segments = self._segments.get(leading)
        if segments is None:
            segments = self._segments[leading] = self._route(path, leading)
        bound = self._bound[path, shape] = bind(stack, segments)
        return bound

    def _route(self, path: str, leading: torch.Size) -> tuple[Segment, ...]:
        tokens = leading.numel()
        if len(set(self._rows)) == 1:
            return route(self._rows[:1], self._slots, tokens)
        if len(leading) > 1 and leading[0] == len(self._rows):
            return route(self._rows, self._slots, tokens // len(self._rows))
        raise _mixed(path)


def _mixed(path: str) -> Refused:
    return Refused(f"{path} mixes the rows of a batch: its tokens cannot be separated", hint="one adapter at a time")


def moved(model: ComposedModel, ids: torch.Tensor, slot: int, base_logits: torch.Tensor) -> Moved:
    """The effect of composing ``slot``. ``base_logits`` are those of the same ``ids``.

    Raises:
        Refused: a logit is not finite, or none changed.
    """
    logits = model.logits(ids, [slot] * len(ids))
    if not bool(torch.isfinite(logits).all()):
        raise Refused("the whole model's logits are not finite with this adapter")
    delta = float((logits - base_logits).abs().max())
    if not delta:
        raise Refused("the whole model's logits are bit-identical to the base's: the adapter changes nothing")
    base, adapted = base_logits.double().log_softmax(-1), logits.double().log_softmax(-1)
    kl = (base.exp() * (base - adapted)).sum(-1).mean()
    changed = logits.argmax(-1) != base_logits.argmax(-1)
    return Moved(delta, max(0.0, float(kl)), int(changed.sum()), changed.numel())


def cache_name(model: nn.Module) -> str:
    """The model's name of its key-value cache: transformers 5.24 renamed ``past_key_values`` to ``cache``."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _why_not(found: Mapping[str, nn.Module], path: str, slots: Slots) -> str:
    """Why LoRA cannot be composed onto a module of the real model; empty when it can."""
    from transformers.pytorch_utils import Conv1D

    module, stack = found.get(path), slots.stacks[path]
    if module is None:
        return "is not a module of the model that transformers builds"
    if isinstance(found.get(path.rpartition(".")[0]), nn.MultiheadAttention):
        return "is used by nn.MultiheadAttention without being called"
    if stack.embedding:
        if not isinstance(module, nn.Embedding) or not (type(module) is nn.Embedding or hasattr(module, "embed_scale")):
            return f"is a {type(module).__name__}, which cannot be composed yet"
        shape: tuple[Any, Any] = (module.num_embeddings, module.embedding_dim)
    elif type(module) is nn.Linear:
        shape = (module.in_features, module.out_features)
    elif type(module) is Conv1D:
        shape = (module.nx, module.nf)
    else:
        return f"is a {type(module).__name__}, which cannot be composed yet"
    if shape == (stack.d_in, stack.d_out):
        return ""
    return f"maps {shape[0]} to {shape[1]} in the model and {stack.d_in} to {stack.d_out} in its config"
