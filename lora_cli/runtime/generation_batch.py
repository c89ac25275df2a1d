"""A batch of rows that are generated at once over transformers' own key-value cache; rows may join it and leave it."""

import inspect
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch.nn.functional import pad

from lora_cli.runtime.lora_slots import BASE_SLOT
from lora_cli.runtime.transformers_model import ComposedModel, cache_name


class GenerationBatch:
    """Rows between steps: ids, mask and key-value cache, each row with its own slot.

    Rows of unequal length are padded on their left, and masked there. Rows of one slot should be neighbours: a run of
    them is one product.
    """

    def __init__(self, model: ComposedModel, prompts: Sequence[Sequence[int]], slots: Sequence[int]) -> None:
        self._model, self._slots = model, list(slots)
        longest = max(map(len, prompts))
        padded = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        real = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        self._ids = torch.tensor(padded, device=model.device)
        self._mask = torch.tensor(real, device=model.device)
        self._position = (self._mask.cumsum(-1) - 1).clamp_(min=0)
        self._parameters = frozenset(inspect.signature(model.model.forward).parameters)
        self._cache_name = cache_name(model.model)
        self._cache: Any = None

    def logits(self) -> torch.Tensor:
        """The logits of each row's next token: ``[rows, vocabulary]`` in float32."""
        with torch.inference_mode(), self._model.with_slots(self._slots):
            output = self._model.model(input_ids=self._ids, use_cache=True, **self._model_inputs())
        self._cache = output[self._cache_name]
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def feed(self, tokens: Sequence[int]) -> None:
        """Adds each row's next token."""
        self._ids = torch.tensor([[token] for token in tokens], device=self._ids.device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        self._position = self._position[:, -1:] + 1

    def leave_slot(self, row: int) -> None:
        """Uses the base for an ended row: its slot may get another adapter while the row is still in the batch."""
        self._slots[row] = BASE_SLOT

    @property
    def can_change(self) -> bool:
        """Whether rows can join and leave: each layer of the cache has the keys and values of all tokens.

        A layer with a sliding window or a recurrent state cannot be padded on its left afterwards, nor a model that
        takes its positions from the length of the cache.
        """
        from transformers.cache_utils import DynamicCache, DynamicLayer

        if "position_ids" not in self._parameters:
            return False
        return type(self._cache) is DynamicCache and all(type(one) is DynamicLayer for one in self._cache.layers)

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order, without the columns that are padding in all of them."""
        self._slots = [self._slots[row] for row in rows]
        self._ids, self._position = self._ids[rows], self._position[rows]
        start = int(self._mask[rows].any(dim=0).int().argmax())
        self._mask = self._mask[rows, start:]
        with torch.inference_mode():
            for layer in self._layers():
                layer.keys, layer.values = layer.keys[rows, :, start:], layer.values[rows, :, start:]

    def join(self, other: "GenerationBatch") -> None:
        """Append the rows of ``other``, which is between the same steps: its prompts are in its cache."""
        length = max(self._mask.shape[1], other._mask.shape[1])
        for batch in (self, other):
            batch._pad(length - batch._mask.shape[1])
        self._slots += other._slots
        self._ids = torch.cat([self._ids, other._ids])
        self._mask = torch.cat([self._mask, other._mask])
        self._position = torch.cat([self._position, other._position])
        with torch.inference_mode():
            for mine, its in zip(self._layers(), other._layers(), strict=True):
                mine.keys, mine.values = torch.cat([mine.keys, its.keys]), torch.cat([mine.values, its.values])

    def _pad(self, columns: int) -> None:
        self._mask = pad(self._mask, (columns, 0))
        with torch.inference_mode():
            for layer in self._layers() if columns else ():
                layer.keys, layer.values = (pad(one, (0, 0, columns, 0)) for one in (layer.keys, layer.values))

    def _layers(self) -> list[Any]:
        """The layers of the cache ``[rows, heads, tokens, width]`` that have keys of their own."""
        return [layer for layer in self._cache.layers if layer.is_initialized]

    def _model_inputs(self) -> dict[str, Any]:
        """The model's inputs besides ids that its forward accepts."""
        inputs: dict[str, Any] = {self._cache_name: self._cache}
        if not bool(self._mask.all()):
            inputs["attention_mask"] = self._mask
            if "position_ids" in self._parameters:
                inputs["position_ids"] = self._position
        if "logits_to_keep" in self._parameters:
            inputs["logits_to_keep"] = 1
        return inputs


def greedy(
    model: ComposedModel, prompt: Sequence[int], slot: int, max_tokens: int, stop: Collection[int]
) -> tuple[list[int], torch.Tensor]:
    """The most likely next tokens after ``prompt``, and the logits ``[vocabulary]`` of the first of them.

    Ends before a token of ``stop``.
    """
    batch, answer, first = GenerationBatch(model, [prompt], [slot]), list[int](), torch.empty(0)
    for step in range(max_tokens):
        logits = batch.logits()[0]
        first = first if step else logits
        token = int(logits.argmax())
        if token in stop:
            break
        answer.append(token)
        batch.feed([token])
    return answer, first
