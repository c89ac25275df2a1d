"""Greedy generation of a request's prompts in one batch, over transformers' own key-value cache."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lora_cli.errors import Refused
from lora_cli.warm.composed import ComposedModel, Slot

INCOMPLETE = "\ufffd"
"""The end of a text whose last character is incomplete."""

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class Delta:
    """New output of row ``row``: ``ids``, and ``text``, which may lag behind its tokens.

    ``finish`` is "" while more comes, else ``stop`` or ``length``.
    """

    row: int
    ids: tuple[int, ...]
    text: str
    finish: str = ""


@dataclass(slots=True)
class _Row:
    """One row's output.

    Text is given as soon as it can no longer change: a token may be the first byte of a character. Tokens are decoded
    with those just before them, because some begin with a space only there.
    """

    number: int
    max_tokens: int
    ends: frozenset[int]
    decode: Decode
    finish: str = ""
    _ids: list[int] = field(default_factory=list)
    _before: int = 0
    _read: int = 0

    def append(self, token: int) -> Delta:
        """Append the next token; returns the new output."""
        ids, new = tuple[int, ...](), ""
        if token in self.ends:
            self.finish = "stop"
        else:
            ids = (token,)
            self._ids.append(token)
            if len(self._ids) >= self.max_tokens:
                self.finish = "length"
        before = self.decode(self._ids[self._before : self._read])
        text = self.decode(self._ids[self._before :])
        if self.finish or (len(text) > len(before) and not text.endswith(INCOMPLETE)):
            self._before, self._read = self._read, len(self._ids)
            new = text[len(before) :]
        return Delta(self.number, ids, new, self.finish)


class Generation:
    """The prompts of one request as one batch, generated step by step until ``ended``.

    A row ends after ``max_tokens``, or at a token of ``ends``. Rows of unequal length are padded on their left, and
    masked there.
    """

    def __init__(
        self,
        model: ComposedModel,
        prompts: Sequence[Sequence[int]],
        slot: Slot | None,
        max_tokens: int,
        ends: frozenset[int],
        decode: Decode,
    ) -> None:
        self._model, self._slot = model, slot
        self._rows = [_Row(number, max_tokens, ends, decode) for number in range(len(prompts))]
        longest = max(map(len, prompts))
        padded = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        real = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        self._ids = torch.tensor(padded, device=model.device)
        self._mask = torch.tensor(real, device=model.device)
        self._position = (self._mask.cumsum(-1) - 1).clamp_(min=0)
        self._parameters = frozenset(inspect.signature(model.model.forward).parameters)
        # transformers 5.24 renamed ``past_key_values`` to ``cache``.
        self._cache_name = "cache" if "cache" in self._parameters else "past_key_values"
        self._cache: Any = None

    @property
    def ended(self) -> bool:
        """Whether all rows have ended."""
        return all(row.finish for row in self._rows)

    def step(self) -> list[Delta]:
        """The next token of every row that has not ended. Raises ``Refused``: a logit is NaN."""
        logits = self._logits()
        tokens: list[int] = logits.argmax(-1).tolist()
        going = [row for row in self._rows if not row.finish]
        if bool(torch.isnan(logits[[row.number for row in going]]).any()):
            raise Refused("the model's logits are NaN with this adapter", hint="run lora-cli validate on it")
        deltas = [row.append(tokens[row.number]) for row in going]
        self._ids = torch.tensor([[token] for token in tokens], device=self._ids.device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        self._position = self._position[:, -1:] + 1
        return deltas

    def _logits(self) -> torch.Tensor:
        """The logits of each row's next token: ``[rows, vocabulary]`` in float32."""
        inputs: dict[str, Any] = {self._cache_name: self._cache}
        if not bool(self._mask.all()):
            inputs["attention_mask"] = self._mask
            if "position_ids" in self._parameters:
                inputs["position_ids"] = self._position
        if "logits_to_keep" in self._parameters:
            inputs["logits_to_keep"] = 1
        with torch.inference_mode(), self._model.using(self._slot):
            output = self._model.model(input_ids=self._ids, use_cache=True, **inputs)
        self._cache = output[self._cache_name]
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits
