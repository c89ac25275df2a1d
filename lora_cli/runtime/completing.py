"""A static batch of prompts through the whole model: adapters into their slots, then step by step for all rows."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from lora_cli.errors import FormatError, LoraCliError, Refused, UsageError
from lora_cli.runtime.answering import Answering
from lora_cli.runtime.generation import Generation
from lora_cli.runtime.messages import Complete, Completed, Heard, Placed, Row, Unanswered
from lora_cli.runtime.room import out_of_memory
from lora_cli.runtime.slots import BASE_SLOT

if TYPE_CHECKING:
    from lora_cli.runtime.whole import WholeModel
    from lora_cli.runtime.worker import Worker

Say = Callable[[object], None]

NOT_FINITE = Refused("the model's logits are not numbers with this adapter", hint="lora-cli validate it")


@dataclass(frozen=True, slots=True)
class Started:
    """One row that can be answered: the ids of its prompt, and the slot that its adapter is leased in."""

    answering: Answering
    ids: tuple[int, ...]
    slot: int


def complete(worker: "Worker", request: Complete, say: Say) -> Completed:
    """Answer all rows; what is wrong with one is said of that one.

    Raises:
        UsageError: the warm process has no whole model.
        MachineError: out of memory.
    """
    whole = worker.whole
    if whole is None:
        raise UsageError("there is no whole model to answer with", hint="start it with --forward model")
    before = worker.resident.counts().evictions
    with ExitStack() as leases, out_of_memory():
        started = [
            one
            for one in (_start(worker, whole, number, row, leases, say) for number, row in enumerate(request.rows))
            if one is not None
        ]
        evicted = worker.resident.counts().evictions - before
        try:
            _generate(worker, whole, started, say)
        except Refused:
            # The model flattens the rows of a batch somewhere: each adapter has a batch of its own.
            for slot in dict.fromkeys(one.slot for one in started):
                _generate(worker, whole, [one for one in started if one.slot == slot], say)
    return Completed(len(request.rows), evicted)


def _start(worker: "Worker", whole: "WholeModel", number: int, row: Row, leases: ExitStack, say: Say) -> Started | None:
    """The row with its prompt as ids and its adapter in a slot for as long as ``leases``; None when that is refused."""
    try:
        ids = _ids(whole, row)
        began, slot, tier = perf_counter(), BASE_SLOT, ""
        if row.job is not None:
            slot, tier = worker.leased(row.job, leases)
        said: Heard = Placed(number, tier, (perf_counter() - began) * 1e3, ids)
    except LoraCliError as error:
        say(Unanswered(number, error))
        return None
    say(said)
    return Started(Answering(number, row, whole.decode, whole.ends), ids, slot)


def _ids(whole: "WholeModel", row: Row) -> tuple[int, ...]:
    """The prompt as token ids that the model has, with room for the answer.

    Raises:
        UsageError: they are none.
        FormatError: it is text, and there is no tokenizer.
    """
    ids = tuple(whole.chat.plain_ids(row.prompt)) if isinstance(row.prompt, str) else row.prompt
    if not ids:
        raise UsageError("the prompt is empty")
    if max(ids) >= whole.vocabulary or min(ids) < 0:
        raise UsageError(f"the prompt has token ids beyond the vocabulary of {whole.vocabulary}")
    most = whole.max_model_len
    if most is not None and len(ids) + row.max_tokens > most:
        raise UsageError(
            f"the prompt has {len(ids)} tokens and max_tokens is {row.max_tokens}: the model's context has {most}"
        )
    if row.stop and whole.decode is None:
        raise FormatError("stop needs a tokenizer, and the base has none", where="stop")
    return ids


def _generate(worker: "Worker", whole: "WholeModel", started: Sequence[Started], say: Say) -> None:
    """Step by step, until all rows have ended. Between steps others may use the device."""
    if not started:
        return
    batch = Generation(whole.composed, [one.ids for one in started], [one.slot for one in started])
    while True:
        with worker.turns.request():
            logits = batch.logits()
        tokens = logits.argmax(-1).tolist()
        for number, one in enumerate(started):
            if one.answering.finish:
                continue
            if bool(torch.isnan(logits[number]).any()):
                one.answering.finish = "stop"
                say(Unanswered(one.answering.number, NOT_FINITE))
            else:
                say(one.answering.take(tokens[number], logits[number]))
        if all(one.answering.finish for one in started):
            return
        batch.feed(tokens)
