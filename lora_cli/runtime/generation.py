"""Greedy generation of rows in one batch, each with its own slot. Rows join and leave between two steps."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from lora_cli.errors import FormatError, LoraCliError, Refused, UsageError
from lora_cli.runtime.device_lock import DeviceLock
from lora_cli.runtime.generation_batch import GenerationBatch
from lora_cli.runtime.lora_slots import BASE_SLOT
from lora_cli.runtime.memory_check import out_of_memory
from lora_cli.runtime.messages import (
    Generate,
    OutputDelta,
    Row,
    RowFailed,
    RowScheduled,
    TokenLogprob,
)
from lora_cli.runtime.parent_connection import Send
from lora_cli.runtime.transformers_model import ComposedModel
from lora_cli.text import by_key

if TYPE_CHECKING:
    from lora_cli.runtime.full_model import FullModel
    from lora_cli.runtime.worker import Worker

INCOMPLETE = "\ufffd"
"""The end of a text whose last character is incomplete."""


class GeneratingRow:
    """A row between steps: its prompt ids, its slot, and its output, whose events go to ``send``.

    Closing ``lease`` gives its slot back. Without a tokenizer its text is empty.

    Text is sent as soon as it can no longer change: a token may be the first byte of a character, or the beginning of
    what ``stop`` says. Tokens are decoded with those just before them, because some begin with a space only there.
    """

    def __init__(self, number: int, row: Row, ids: tuple[int, ...], full_model: "FullModel", send: Send) -> None:
        self.number, self.row, self.finish = number, row, ""
        self.ids, self.slot, self.send, self.lease = ids, BASE_SLOT, send, ExitStack()
        self._decode = full_model.decode
        self._ends = frozenset() if row.ignore_eos else full_model.ends
        self._output_ids: list[int] = []
        self._before = self._read = 0
        self._pending_text = ""
        self._longest = max(map(len, row.stop), default=1) - 1

    @property
    def all_ids(self) -> tuple[int, ...]:
        """The ids of its prompt and of its output until now."""
        return (*self.ids, *self._output_ids)

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

    def failed(self, error: LoraCliError) -> RowFailed:
        """End the row with an error."""
        self.finish = "error"
        return RowFailed(self.number, error)

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
        if not self.row.logprobs:
            return ()
        return (TokenLogprob(self._token_text(token), float(torch.log_softmax(logits, dim=-1)[token])),)

    def _token_text(self, token: int) -> str:
        text = self._decode([token]) if self._decode is not None else ""
        return text if text and INCOMPLETE not in text else f"token_id:{token}"


NOT_FINITE = Refused("the model's logits are NaN with this adapter", hint="run lora-cli validate on it")


def generate(worker: "Worker", request: Generate, send: Send) -> int:
    """Complete all rows, beside those of other threads, and return their number; a failure is an event of its row.

    Raises:
        UsageError: the warm process has no whole model.
        MachineError: out of memory.
    """
    full_model, loop = worker.full_model, worker.generation
    if full_model is None or loop is None:
        raise UsageError("there is no whole model to generate with", hint="start it with --forward model")
    rows: list[GeneratingRow] = []
    try:
        with out_of_memory():
            for number, row in enumerate(request.rows):
                rows += _start(worker, full_model, number, row, send)
            loop.complete(rows)
    finally:
        for one in rows:
            one.lease.close()
    return len(request.rows)


MOST_BATCHES = 2
"""How many batches that cannot change take turns: with more, each would be of few rows."""


class GenerationLoop:
    """The rows that are generated at once: new ones join between two steps, and ended ones leave.

    Any thread with rows that have not ended takes a step for all rows; the device is released between steps. Batches
    that cannot change (``GenerationBatch.can_change``) take turns, at most ``MOST_BATCHES`` of them.
    """

    def __init__(self, model: ComposedModel, device_lock: DeviceLock) -> None:
        self._model, self._device_lock = model, device_lock
        self._turn = threading.Lock()
        self._new: deque[list[GeneratingRow]] = deque()
        self._batches: list[tuple[GenerationBatch, list[GeneratingRow]]] = []
        self._mixes_slots = True

    def complete(self, rows: list[GeneratingRow]) -> None:
        """Generate ``rows`` to their ends."""
        self._new.append(rows)
        while not all(one.finish for one in rows):
            with self._turn:
                if not all(one.finish for one in rows):
                    self._step()

    def _step(self) -> None:
        """The next token of every row."""
        if sum(not batch.can_change for batch, _ in self._batches) < MOST_BATCHES:
            new = [row for _ in range(len(self._new)) for row in self._new.popleft()]
            with _failing(new):
                self._add(new)
        steps, self._batches = self._batches, []
        for batch, rows in steps:
            with _failing(rows):
                try:
                    self._advance(batch, rows)
                except Refused:
                    if len({one.slot for one in rows}) == 1:
                        raise
                    # The model flattens the rows of a batch somewhere: each adapter has a batch of its own.
                    self._mixes_slots = False
                    self._add(one for one in rows if not one.finish)
        self._join()

    def _add(self, rows: Iterable[GeneratingRow]) -> None:
        """Add a batch of these rows, each after its prompt and the output that it has."""
        rows = sorted(rows, key=lambda one: one.slot)
        for _, same in groupby(rows, key=self._kind):
            some = list(same)
            batch = GenerationBatch(self._model, [one.all_ids for one in some], [one.slot for one in some])
            self._batches.append((batch, some))

    def _kind(self, row: GeneratingRow) -> int:
        """The same for rows that can be in one batch."""
        return 0 if self._mixes_slots else row.slot

    def _advance(self, batch: GenerationBatch, rows: list[GeneratingRow]) -> None:
        """The next token of every row of a batch, which stays unless all of its rows have ended."""
        with self._device_lock.request():
            logits = batch.logits()
        tokens = logits.argmax(-1).tolist()
        for number, one in enumerate(rows):
            if one.finish:
                continue
            if bool(torch.isnan(logits[number]).any()):
                event: RowFailed | OutputDelta = one.failed(NOT_FINITE)
            else:
                event = one.append_token(tokens[number], logits[number])
            if isinstance(event, RowFailed) or event.finish:
                batch.leave_slot(number)
                one.lease.close()
            one.send(event)
        left = [number for number, one in enumerate(rows) if not one.finish]
        if left:
            batch.feed(tokens)
            if len(left) < len(rows) and batch.can_change:
                batch.select(left)
                rows = [rows[number] for number in left]
            self._batches.append((batch, rows))

    def _join(self) -> None:
        """Join the batches that can change, the rows of each sorted by slot."""
        changing = [one for one in self._batches if one[0].can_change]
        self._batches = [one for one in self._batches if not one[0].can_change]
        for group in by_key((self._kind(one[1][0]), one) for one in changing).values():
            batch, rows = group[0][0], [row for _, some in group for row in some]
            with _failing(rows):
                if len(group) > 1:
                    for other, _ in group[1:]:
                        batch.join(other)
                    order = sorted(range(len(rows)), key=lambda number: rows[number].slot)
                    batch.select(order)
                    rows = [rows[number] for number in order]
                self._batches.append((batch, rows))


@contextmanager
def _failing(rows: Sequence[GeneratingRow]) -> Iterator[None]:
    """An error in the block, also out of memory, is the error of these rows that have not ended."""
    try:
        with out_of_memory():
            yield
    except LoraCliError as error:
        _fail(rows, error)


def _fail(rows: Iterable[GeneratingRow], error: LoraCliError) -> None:
    for one in rows:
        if not one.finish:
            event = one.failed(error)
            one.lease.close()
            one.send(event)


def _start(worker: "Worker", full_model: "FullModel", number: int, row: Row, send: Send) -> Iterator[GeneratingRow]:
    """Tokenize the row's prompt and lease its adapter's slot until the row ends; nothing if that fails."""
    try:
        ids = _ids(full_model, row)
        started, began, tier = GeneratingRow(number, row, ids, full_model, send), perf_counter(), ""
        if row.lora is not None:
            started.slot, tier = worker.lease_slot(row.lora, started.lease)
        load_ms = (perf_counter() - began) * 1e3
    except LoraCliError as error:
        send(RowFailed(number, error))
        return
    send(RowScheduled(number, tier, load_ms, ids))
    yield started


def _ids(full_model: "FullModel", row: Row) -> tuple[int, ...]:
    """The prompt as token ids that the model has, with room for the answer.

    Raises:
        UsageError: they are none.
        FormatError: it is text, and there is no tokenizer.
    """
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
