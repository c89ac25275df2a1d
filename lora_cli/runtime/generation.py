"""Greedy generation of a static batch, each row with its own slot, over transformers' own key-value cache."""

import inspect
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from lora_cli.errors import FormatError, LoraCliError, Refused, UsageError
from lora_cli.runtime.lora_slots import BASE_SLOT
from lora_cli.runtime.memory_check import out_of_memory
from lora_cli.runtime.messages import (
    Conversation,
    Generate,
    OutputDelta,
    Row,
    RowEvent,
    RowFailed,
    RowScheduled,
    TokenLogprob,
)
from lora_cli.runtime.transformers_model import ComposedModel, cache_name

if TYPE_CHECKING:
    from lora_cli.runtime.full_model import FullModel
    from lora_cli.runtime.worker import Worker

INCOMPLETE = "\ufffd"
"""The end of a text whose last character is incomplete."""


class GeneratingRow:
    """A row between steps: its prompt ids, its slot, and its output.

    ``decode`` is None if there is no tokenizer: its text is empty then.

    Text is sent as soon as it can no longer change: a token may be the first byte of a character, or the beginning of
    what ``stop`` says. Tokens are decoded with those just before them, because some begin with a space only there.
    """

    def __init__(self, number: int, row: Row, ids: tuple[int, ...], slot: int, full_model: "FullModel") -> None:
        self.number, self.row, self.finish = number, row, ""
        self.ids, self.slot = ids, slot
        self._decode = full_model.decode
        self._ends = frozenset() if row.ignore_eos else full_model.ends
        self._output_ids: list[int] = []
        self._before = self._read = 0
        self._pending_text = ""
        self._longest = max(map(len, row.stop), default=1) - 1

    def append_token(self, token: int, logits: torch.Tensor) -> OutputDelta:
        """Append the next token, chosen from ``logits`` ``[vocabulary]``; returns the new output."""
        ids: tuple[int, ...] = ()
        if token in self._ends:
            self.finish = "stop"
        else:
            ids = (token,)
            self._output_ids.append(token)
            if len(self._output_ids) >= self.row.max_tokens:
                self.finish = "length"
        text = self._new_text()
        return OutputDelta(self.number, ids, text, self._logprobs(token, logits) if ids else (), self.finish)

    def _new_text(self) -> str:
        """The text that can be sent now: without a stop string, and without a possible beginning of one."""
        self._pending_text += self._decode_new(everything=bool(self.finish))
        found = [place for place in (self._pending_text.find(stop) for stop in self.row.stop) if place >= 0]
        if found:
            self.finish, self._pending_text = "stop", self._pending_text[: min(found)]
        sent = len(self._pending_text) if self.finish else max(0, len(self._pending_text) - self._longest)
        text, self._pending_text = self._pending_text[:sent], self._pending_text[sent:]
        return text

    def _decode_new(self, *, everything: bool) -> str:
        """The new decoded text; with ``everything`` an incomplete end too."""
        if self._decode is None:
            return ""
        before = self._decode(self._output_ids[self._before : self._read])
        text = self._decode(self._output_ids[self._before :])
        if not everything and (len(text) <= len(before) or text.endswith(INCOMPLETE)):
            return ""
        self._before, self._read = self._read, len(self._output_ids)
        return text[len(before) :]

    def _logprobs(self, token: int, logits: torch.Tensor) -> tuple[TokenLogprob, ...]:
        if self.row.logprobs is None:
            return ()
        logs = torch.log_softmax(logits, dim=-1)
        top = torch.topk(logs, self.row.logprobs) if self.row.logprobs else None
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True) if top is not None else ()
        return (
            TokenLogprob(
                self._token_text(token), float(logs[token]), {self._token_text(one): log for one, log in pairs}
            ),
        )

    def _token_text(self, token: int) -> str:
        text = self._decode([token]) if self._decode is not None else ""
        return text if text and INCOMPLETE not in text else f"token_id:{token}"


class GenerationBatch:
    """A batch between steps: ids, mask and key-value cache.

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
        with torch.inference_mode(), self._model.with_slots(self._slots):
            output = self._model.model(input_ids=self._ids, use_cache=True, **self._model_inputs())
        self._cache = output[self._cache_name]
        logits: torch.Tensor = output.logits[self._back, -1].float()
        return logits

    def feed(self, tokens: Sequence[int]) -> None:
        """Each row's next token."""
        self._ids = torch.tensor([[tokens[row]] for row in self._order], device=self._ids.device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        self._position = self._position[:, -1:] + 1

    def _model_inputs(self) -> dict[str, Any]:
        """The model's inputs besides ids that its forward accepts."""
        inputs: dict[str, Any] = {self._cache_name: self._cache}
        if self._is_padded:
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


Send = Callable[[object], None]

NOT_FINITE = Refused("the model's logits are NaN with this adapter", hint="run lora-cli validate on it")


def generate(worker: "Worker", request: Generate, send: Send) -> int:
    """Complete all rows, and return their number; a failure of one row is an event of that row.

    Raises:
        UsageError: the warm process has no whole model.
        MachineError: out of memory.
    """
    full_model = worker.full_model
    if full_model is None:
        raise UsageError("there is no whole model to generate with", hint="start it with --forward model")
    with ExitStack() as leases, out_of_memory():
        started = [
            one
            for one in (
                _start(worker, full_model, number, row, leases, send) for number, row in enumerate(request.rows)
            )
            if one is not None
        ]
        try:
            _decode_until_done(worker, full_model, started, send)
        except Refused:
            # The model flattens the rows of a batch somewhere: each adapter has a batch of its own.
            for slot in dict.fromkeys(one.slot for one in started):
                _decode_until_done(worker, full_model, [one for one in started if one.slot == slot], send)
    return len(request.rows)


def _start(
    worker: "Worker", full_model: "FullModel", number: int, row: Row, leases: ExitStack, send: Send
) -> GeneratingRow | None:
    """Tokenize the row's prompt and lease its adapter's slot; None if that fails."""
    try:
        ids = _ids(full_model, row)
        began, slot, tier = perf_counter(), BASE_SLOT, ""
        if row.lora is not None:
            slot, tier = worker.lease_slot(row.lora, leases)
        scheduled: RowEvent = RowScheduled(number, tier, (perf_counter() - began) * 1e3, ids)
    except LoraCliError as error:
        send(RowFailed(number, error))
        return None
    send(scheduled)
    return GeneratingRow(number, row, ids, slot, full_model)


def _ids(full_model: "FullModel", row: Row) -> tuple[int, ...]:
    """The prompt as token ids that the model has, with room for the answer.

    Raises:
        UsageError: they are none.
        FormatError: it is text, and there is no tokenizer.
    """
    if isinstance(row.prompt, Conversation):
        ids = tuple(full_model.chat.turn_ids(row.prompt.turns))
    else:
        ids = tuple(full_model.chat.plain_ids(row.prompt)) if isinstance(row.prompt, str) else row.prompt
    if not ids:
        raise UsageError("the prompt is empty")
    if max(ids) >= full_model.vocabulary or min(ids) < 0:
        raise UsageError(f"the prompt has token ids beyond the vocabulary of {full_model.vocabulary}")
    most = full_model.max_model_len
    if most is not None and len(ids) + row.max_tokens > most:
        raise UsageError(
            f"the prompt has {len(ids)} tokens and max_tokens is {row.max_tokens}: the model's context has {most}"
        )
    if row.stop and full_model.decode is None:
        raise FormatError("stop needs a tokenizer, but the base has no tokenizer", where="stop")
    return ids


def _decode_until_done(worker: "Worker", full_model: "FullModel", started: Sequence[GeneratingRow], send: Send) -> None:
    """Decode step by step until all rows have ended. The device is released between steps."""
    if not started:
        return
    batch = GenerationBatch(full_model.composed, [one.ids for one in started], [one.slot for one in started])
    while True:
        with worker.device_lock.request():
            logits = batch.logits()
        tokens = logits.argmax(-1).tolist()
        for number, one in enumerate(started):
            if one.finish:
                continue
            if bool(torch.isnan(logits[number]).any()):
                one.finish = "stop"
                send(RowFailed(one.number, NOT_FINITE))
            else:
                send(one.append_token(tokens[number], logits[number]))
        if all(one.finish for one in started):
            return
        batch.feed(tokens)
