"""Greedy generation of one static batch, each row with its own slot, over transformers' own key-value cache."""

import inspect
from collections.abc import Collection, Sequence
from typing import Any

import torch

from lora_cli.runtime.model import ComposedModel, cache_name


class Generation:
    """Holds one batch between its steps: ids, mask and cache.

    Rows of unequal length are padded on their left, and masked there. The model sees them sorted by slot, so that each
    adapter's tokens are neighbours; who uses this sees its own order.
    """

    def __init__(self, model: ComposedModel, prompts: Sequence[Sequence[int]], slots: Sequence[int]) -> None:
        self._model = model
        self._order = sorted(range(len(slots)), key=lambda row: slots[row])
        self._back = sorted(range(len(slots)), key=lambda place: self._order[place])
        self._slots = [slots[row] for row in self._order]
        longest = max(map(len, prompts))
        padded = [[0] * (longest - len(prompts[row])) + list(prompts[row]) for row in self._order]
        real = [[0] * (longest - len(prompts[row])) + [1] * len(prompts[row]) for row in self._order]
        self._ids = torch.tensor(padded, device=model.device)
        self._mask = torch.tensor(real, device=model.device)
        self._position = (self._mask.cumsum(-1) - 1).clamp_(min=0)
        self._is_padded = any(0 in row for row in real)
        self._parameters = frozenset(inspect.signature(model.model.forward).parameters)
        self._cache_name = cache_name(model.model)
        self._cache: Any = None

    def logits(self) -> torch.Tensor:
        """Of each row's next token: ``[rows, vocabulary]`` in float32."""
        with torch.inference_mode(), self._model.using(self._slots):
            output = self._model.model(input_ids=self._ids, use_cache=True, **self._said())
        self._cache = output[self._cache_name]
        logits: torch.Tensor = output.logits[self._back, -1].float()
        return logits

    def feed(self, tokens: Sequence[int]) -> None:
        """Each row's next token."""
        self._ids = torch.tensor([[tokens[row]] for row in self._order], device=self._ids.device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        self._position = self._position[:, -1:] + 1

    def _said(self) -> dict[str, Any]:
        """What the model is told besides ids, as far as its family listens."""
        said: dict[str, Any] = {self._cache_name: self._cache}
        if self._is_padded:
            said["attention_mask"] = self._mask
            if "position_ids" in self._parameters:
                said["position_ids"] = self._position
        if "logits_to_keep" in self._parameters:
            said["logits_to_keep"] = 1
        return said


def greedy(
    model: ComposedModel, prompt: Sequence[int], slot: int, max_tokens: int, stop: Collection[int]
) -> tuple[list[int], torch.Tensor]:
    """The most likely next tokens after ``prompt``, and the logits ``[vocabulary]`` of the first of them.

    Ends before a token of ``stop``.
    """
    batch, answer, first = Generation(model, [prompt], [slot]), list[int](), torch.empty(0)
    for step in range(max_tokens):
        logits = batch.logits()[0]
        first = first if step else logits
        token = int(logits.argmax())
        if token in stop:
            break
        answer.append(token)
        batch.feed([token])
    return answer, first
