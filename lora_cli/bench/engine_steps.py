"""A model of an engine's steps: continuous batching with limits, as in the scheduler of vLLM V1.

Each step gives every running request one token, and fills the rest of its tokens with prompts, the oldest first and
in chunks. At most ``max_num_seqs`` requests run, with as many adapters as there are slots; a request whose adapter
would be one too many waits, and later ones whose adapters are in the batch pass it. Adapters are loaded at the start
of a step, one after the other, and the whole batch waits for them. Not modelled: the memory for keys and values with
its preemptions, prefix caches, and loads that overlap with a step.
"""

from array import array
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from math import ceil

from lora_cli.bench.quantiles import SUMMARIES, summary
from lora_cli.bench.report import EngineReport, PolicyReport
from lora_cli.bench.simulator import Fleet, SimulatedRun, SimulatedTiers
from lora_cli.bench.thresholds import metrics_by_policy
from lora_cli.bench.trace import Trace
from lora_cli.errors import UsageError

METRICS = (*(f"{what}_{share}_ms" for what in ("ttft", "e2el") for share in SUMMARIES), "load_share")
DEFINITIONS = {
    "stall_ms": "from a request's arrival until it is in a batch, with its adapter in a slot",
    "ttft_ms, e2el_ms": "from a request's arrival until the end of the step with its first and its last token",
    "load_share": "share of the time of all steps in which the batch waits for loads",
}
"""The definitions of a run of steps."""


@dataclass(frozen=True, slots=True)
class StepModel:
    """A step takes ``step_ms`` and ``token_ms`` for each of its tokens; the rest are the limits of a batch."""

    step_ms: float
    token_ms: float
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048


def parse_step(text: str, seqs: int | None, tokens: int | None) -> StepModel:
    """``--step 12,50``: milliseconds of a step, and microseconds for each token.

    Raises:
        UsageError: it is not that, or a batch has fewer tokens than requests.
    """
    first, _, second = text.partition(",")
    try:
        step_ms, token_us = float(first), float(second)
    except ValueError:
        step_ms = token_us = -1.0
    if not (0 < step_ms <= 1e6 and 0 <= token_us <= 1e6):
        raise UsageError(f"--step {text[:60]}: must be milliseconds and microseconds", hint="--step 12,50")
    model = StepModel(step_ms, token_us / 1e3, seqs or 256, tokens or max(2048, seqs or 0))
    if model.max_num_batched_tokens < model.max_num_seqs:
        raise UsageError("--max-num-batched-tokens is less than --max-num-seqs", hint="each request needs a token")
    return model


def step_metrics(policies: Mapping[str, PolicyReport]) -> dict[str, float | None]:
    """``lru.ttft_p99_ms`` and the like."""
    reports = {name: one.engine for name, one in policies.items() if one.engine is not None}
    return metrics_by_policy(
        {
            name: {
                f"{what}_{share}_ms": value
                for what, values in (("ttft", one.ttft_ms), ("e2el", one.e2el_ms))
                for share, value in values.items()
            }
            | {"load_share": one.load_share}
            for name, one in reports.items()
        }
    )


@dataclass(frozen=True, slots=True)
class StepRun:
    """The tiers' part of a run, and the milliseconds of each request; ``report`` has the rest."""

    tiers: SimulatedRun
    stalls_ms: "array[float]"
    report: EngineReport


def simulate_steps(trace: Trace, fleet: Fleet, policy: str, model: StepModel) -> StepRun:
    """Replay the requests through an engine whose slots and memory begin with ``fleet.start``.

    Raises:
        MachineError: an adapter is larger than a tier.
    """
    engine = _Engine(trace, fleet, SimulatedTiers(fleet, policy, touches_memory=True), model)
    while engine.step():
        pass
    return engine.results()


class _Engine:
    """The queue and the batch of an engine, at one moment of its clock.

    ``_heads`` is a heap of the oldest waiting request of each adapter, with entries that are out of date. ``_ends``
    is a heap of the decoding requests by the step that gives their last token. At most one prompt is begun and not
    done.
    """

    def __init__(self, trace: Trace, fleet: Fleet, tiers: SimulatedTiers, model: StepModel) -> None:
        self._trace, self._tiers, self._model, self._max_loras = trace, tiers, model, fleet.gpu.items
        self._arrived = self._queued = self._steps = self._loras = self._requests = 0
        self._clock_ms = self._busy_ms = self._load_ms = 0.0
        self._waiting: dict[int, deque[int]] = {}
        self._heads: list[tuple[int, int]] = []
        self._batch: dict[int, int] = {}
        self._partial: tuple[int, int] | None = None
        self._ends: list[tuple[int, int]] = []
        self._found = bytearray(len(trace))
        self._loads, self._stalls, self._ttft, self._e2el = (array("d", bytes(8 * len(trace))) for _ in range(4))

    def step(self) -> bool:
        """One step, or several equal ones; whether there was anything to do."""
        if not (self._queued or self._ends or self._partial):
            if self._arrived == len(self._trace):
                return False
            self._clock_ms = max(self._clock_ms, self._arrival_ms(self._arrived))
        self._arrive()
        decoding = len(self._ends)
        done, tokens, loads_ms = self._fill(self._model.max_num_batched_tokens - decoding)
        took_ms = self._model.step_ms + self._model.token_ms * (decoding + tokens)
        steps = 1 if tokens else self._equal_steps(took_ms)
        self._steps += steps
        self._loras += steps * len(self._batch)
        self._requests += steps * decoding + len(done) + (self._partial is not None)
        self._load_ms += loads_ms
        self._busy_ms += steps * took_ms + loads_ms
        self._clock_ms += steps * took_ms + loads_ms
        for number in done:
            self._ttft[number] = self._clock_ms - self._arrival_ms(number)
            heappush(self._ends, (self._steps + max(self._trace.output_tokens[number], 1) - 1, number))
        while self._ends and self._ends[0][0] <= self._steps:
            self._end(heappop(self._ends)[1])
        return True

    def results(self) -> StepRun:
        """The run, once all steps are done."""
        steps = self._steps or 1
        times = {"ttft_ms": summary(self._ttft), "e2el_ms": summary(self._e2el)}
        report = EngineReport(
            **{
                name: {share: value for share, value in one.items() if value is not None} for name, one in times.items()
            },
            steps=self._steps,
            requests_per_step=self._requests / steps,
            adapters_per_step=self._loras / steps,
            load_share=self._load_ms / (self._busy_ms or 1.0),
        )
        return StepRun(SimulatedRun(self._found, self._loads, self._tiers.evictions()), self._stalls, report)

    def _arrival_ms(self, number: int) -> float:
        return self._trace.times_s[number] * 1e3

    def _arrive(self) -> None:
        which = self._trace.which
        while self._arrived < len(which) and self._arrival_ms(self._arrived) <= self._clock_ms:
            queue = self._waiting.setdefault(which[self._arrived], deque())
            if not queue:
                heappush(self._heads, (self._arrived, which[self._arrived]))
            queue.append(self._arrived)
            self._queued += 1
            self._arrived += 1

    def _fill(self, room: int) -> tuple[list[int], int, float]:
        """Fill a step with prompts: the requests whose prompts end in it, its prompt tokens, and its loads' time."""
        done: list[int] = []
        admitted: list[int] = []
        tokens = 0
        while tokens < room:
            if self._partial is None:
                number = self._next_waiting(len(self._ends) + len(done))
                if number is None:
                    break
                admitted.append(number)
                self._admit(number)
                self._partial = number, max(self._trace.prompt_tokens[number], 1)
            number, left = self._partial
            part = min(left, room - tokens)
            tokens += part
            self._partial = (number, left - part) if part < left else None
            if part == left:
                done.append(number)
        loads_ms = sum(self._loads[number] for number in admitted)
        for number in admitted:
            self._stalls[number] = self._clock_ms + loads_ms - self._arrival_ms(number)
        return done, tokens, loads_ms

    def _next_waiting(self, running: int) -> int | None:
        """The oldest waiting request that may join the batch; it leaves the queue."""
        if not self._queued or running >= self._model.max_num_seqs:
            return None
        if len(self._batch) < self._max_loras:
            number, which = heappop(self._heads)
            while not (self._waiting[which] and self._waiting[which][0] == number):
                number, which = heappop(self._heads)
        else:
            heads = [(self._waiting[one][0], one) for one in self._batch if self._waiting.get(one)]
            if not heads:
                return None
            number, which = min(heads)
        queue = self._waiting[which]
        queue.popleft()
        self._queued -= 1
        if queue:
            heappush(self._heads, (queue[0], which))
        return number

    def _admit(self, number: int) -> None:
        """Load the adapter of a request if need be; its slot is leased while any of its requests run."""
        which = self._trace.which[number]
        name = self._trace.names[which]
        self._found[number], self._loads[number] = self._tiers.request(name)
        if which not in self._batch:
            self._tiers.gpu.lease(name)
        self._batch[which] = self._batch.get(which, 0) + 1

    def _end(self, number: int) -> None:
        which = self._trace.which[number]
        self._e2el[number] = self._clock_ms - self._arrival_ms(number)
        self._batch[which] -= 1
        if not self._batch[which]:
            del self._batch[which]
            self._tiers.gpu.release(self._trace.names[which])

    def _equal_steps(self, took_ms: float) -> int:
        """The number of steps that only decode, until a request ends or another arrives."""
        steps = self._ends[0][0] - self._steps
        if self._arrived < len(self._trace):
            steps = min(steps, ceil((self._arrival_ms(self._arrived) - self._clock_ms) / took_ms))
        return max(steps, 1)
