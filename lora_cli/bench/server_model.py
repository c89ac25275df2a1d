"""A model of lora-cli's own server: first loads with their proofs, one queue, and a batch whose adapters keep slots.

A first load waits for one of two loaders, takes a slot, and keeps it until its proof is over; until then one slot is
left to such loads. A request starts if there is room in the batch and its adapter is in it or can get a slot, the
oldest first; so requests for adapters of the batch pass the others (``serving.scheduler``). A step of the batch gives
each request a token: first those that have one, then the prompts that have come since (``runtime.generation``).
"""

from array import array
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf

from lora_cli.bench.simulator import DISK, GPU, Fleet, SimulatedRun, SimulatedTiers, simulate, stalls_ms
from lora_cli.bench.step_times import StepTimes
from lora_cli.bench.trace import Trace
from lora_cli.tiers.memory_accounting import TierBusy

LOADERS = 2
"""First loads at once (``runtime.worker_process``)."""

MAX_BATCH_SIZE = 8
"""Requests that are generated at once, and that may pass the oldest waiting one (``runtime.messages``)."""

MOST_EQUAL_S = 1e6
"""Equal steps are simulated as one for so many seconds at most."""


def simulate_requests(trace: Trace, fleet: Fleet, policy: str) -> tuple[SimulatedRun, "array[float]"]:
    """The run, and the milliseconds that each request waits for loads of its adapter; 0 if it is in a slot.

    Requests for an adapter that is loaded for the first time wait for that load, and count as having found the adapter
    where the load found it.

    Raises:
        MachineError: an adapter is larger than a tier.
    """
    if trace.timed and fleet.links.loads_ms.get("first"):
        return _Server(trace, fleet, policy).run()
    run = simulate(trace.keys(), fleet, policy)
    return run, stalls_ms(trace, run, side_by_side=fleet.links.side_by_side)


class _Batch:
    """The requests that are generated. The current part of a step ends at ``ends_s``, or a load that all wait for.

    ``_left`` are the tokens that each request has still to get after its prompt. ``_new`` is a heap of those that join
    the next step, by the time when they are loaded. ``_part`` get ``_part_tokens`` each, then ``_prompts`` their first.
    """

    def __init__(self, trace: Trace, steps: StepTimes) -> None:
        self.ends_s = inf
        self._trace, self._steps = trace, steps
        self._left: dict[int, int] = {}
        self._new: list[tuple[float, int]] = []
        self._part, self._prompts = list[int](), list[int]()
        self._part_tokens = 1

    def add(self, number: int, now_s: float, load_ms: float) -> None:
        """A request that joins the next step after its load."""
        heappush(self._new, (now_s + load_ms / 1e3, number))
        if not self._part:
            self._begin(now_s, inf)

    def advance(self, next_s: float) -> list[int]:
        """End the part and begin the next one; the requests that have ended. Else none comes before ``next_s``."""
        ended = []
        for number in self._part:
            self._left[number] = self._left.get(number, max(self._trace.output_tokens[number], 1)) - self._part_tokens
            if self._left[number] <= 0:
                del self._left[number]
                ended.append(number)
        self._begin(self.ends_s, self.ends_s if ended else next_s)
        return ended

    def _begin(self, now_s: float, next_s: float) -> None:
        """Begin the second part of the step, or the next step. Equal steps until ``next_s`` are one."""
        self._part, self._prompts, self._part_tokens = self._prompts, [], 1
        if not self._part:
            self._part = list(self._left)
            joined = self._prompts if self._part else self._part
            while self._new and self._new[0][0] <= now_s:
                joined.append(heappop(self._new)[1])
        if not self._part:
            self.ends_s = self._new[0][0] if self._new else inf
            return
        tokens = sum(1 if number in self._left else self._trace.prompt_tokens[number] for number in self._part)
        step_s = self._steps.of(tokens) / 1e3
        if self._part[0] in self._left and not self._prompts and not self._new:
            least = min(self._left.values())
            self._part_tokens = max(1, min(least, int(min(next_s - now_s, MOST_EQUAL_S) / step_s))) if step_s else least
        self.ends_s = now_s + self._part_tokens * step_s


@dataclass(slots=True)
class _FirstLoad:
    """The first load of an adapter: when it can end, the tier that it found, and the requests that wait for it."""

    which: int
    ends_s: float
    found: int = DISK
    waiting: list[int] = field(default_factory=list)


class _Server:
    """The server at one moment of its clock, ``_now_s``.

    ``_waiting`` are the requests in the queue with their places, ``_queues`` the same by adapter; ``_refused_s`` is
    since when a request has found all slots kept. ``_running`` counts those in the batch by adapter. ``_loads`` are
    first loads that are not over: some wait for a loader (``_next_loads``), then for a slot (``_unplaced``), and end
    at their time (``_proofs``).
    """

    def __init__(self, trace: Trace, fleet: Fleet, policy: str) -> None:
        self._trace, self._tiers = trace, SimulatedTiers(fleet, policy)
        self._batch, self._max_loras = _Batch(trace, fleet.links.steps), fleet.gpu.items
        self._found, self._stalls = bytearray(len(trace)), array("d", bytes(8 * len(trace)))
        self._load_ms = array("d", self._stalls)
        self._now_s = 0.0
        self._waiting, self._places = OrderedDict[int, int](), count()
        self._queues: dict[int, deque[int]] = {}
        self._running: Counter[int] = Counter()
        self._overtaken = 0
        self._refused_s: dict[int, float] = {}
        self._loads: dict[int, _FirstLoad] = {}
        self._next_loads, self._unplaced = deque[_FirstLoad](), deque[_FirstLoad]()
        self._proofs: list[tuple[float, int]] = []

    def run(self) -> tuple[SimulatedRun, "array[float]"]:
        """The run, and each request's milliseconds of waiting for loads."""
        for number, time_s in enumerate(self._trace.times_s):
            self._run_until(time_s)
            self._now_s = time_s
            self._arrive(number)
            self._start_all()
        self._run_until(inf)
        return SimulatedRun(self._found, self._load_ms, self._tiers.evictions()), self._stalls

    def _run_until(self, time_s: float) -> None:
        """Let loads and parts of steps end, in their order, until that time."""
        while True:
            proof_s = self._proofs[0][0] if self._proofs else inf
            self._now_s = min(proof_s, self._batch.ends_s)
            if self._now_s > time_s or self._now_s == inf:
                return
            if self._batch.ends_s <= proof_s:
                for number in self._batch.advance(min(proof_s, time_s)):
                    self._end_request(self._trace.which[number])
            else:
                self._end_load(self._loads.pop(heappop(self._proofs)[1]))
            self._start_all()

    def _arrive(self, number: int) -> None:
        which = self._trace.which[number]
        if which not in self._loads and (first_ms := self._tiers.first_load_ms(self._trace.names[which])) is not None:
            self._loads[which] = _FirstLoad(which, self._now_s + first_ms / 1e3)
            self._next_loads.append(self._loads[which])
            self._load_ms[number] = first_ms
        if which in self._loads:
            self._loads[which].waiting.append(number)
        else:
            self._queue(number)

    def _queue(self, number: int) -> None:
        self._waiting[number] = next(self._places)
        self._queues.setdefault(self._trace.which[number], deque()).append(number)

    def _end_request(self, which: int) -> None:
        self._tiers.gpu.release(self._trace.names[which])
        self._running[which] -= 1
        if not self._running[which]:
            del self._running[which]

    def _end_load(self, load: _FirstLoad) -> None:
        self._tiers.gpu.release(self._trace.names[load.which])
        for number in load.waiting:
            self._found[number] = load.found
            self._stalls[number] = (self._now_s - self._trace.times_s[number]) * 1e3
            self._queue(number)

    def _start_all(self) -> None:
        """Start the loads and the requests for which there is room now."""
        while self._next_loads and len(self._unplaced) + len(self._proofs) < LOADERS:
            self._unplaced.append(self._next_loads.popleft())
        while self._unplaced and (placed := self._lease(self._unplaced[0].which)):
            load = self._unplaced.popleft()
            load.found = placed[0] or DISK
            heappush(self._proofs, (max(load.ends_s, self._now_s), load.which))
        while self._waiting and self._running.total() < MAX_BATCH_SIZE and self._start_next():
            pass

    def _start_next(self) -> bool:
        """Start the oldest request, or one of an adapter in the batch if there is no slot for it; whether it could."""
        oldest = next(iter(self._waiting))
        is_running = self._trace.which[oldest] in self._running
        has_slot = is_running or len(self._running) + bool(self._loads) < self._max_loras
        if has_slot and self._start(oldest):
            self._overtaken = 0
            return True
        others = [self._queues[which][0] for which in self._running if which in self._queues]
        if not others or self._overtaken == MAX_BATCH_SIZE:
            return False
        self._overtaken += 1
        return self._start(min(others, key=self._waiting.__getitem__))

    def _start(self, number: int) -> bool:
        """Let a request enter the batch, unless its adapter cannot get a slot.

        One that waited for a first load keeps what that load found.
        """
        which = self._trace.which[number]
        placed = self._lease(which)
        if placed is None:
            self._refused_s.setdefault(number, self._now_s)
            return False
        found, load_ms = placed
        load_ms += (self._now_s - self._refused_s.pop(number, self._now_s)) * 1e3
        del self._waiting[number]
        self._queues[which].popleft()
        if not self._queues[which]:
            del self._queues[which]
        self._running[which] += 1
        self._batch.add(number, self._now_s, placed[1])
        if self._found[number] == GPU:
            self._found[number], self._load_ms[number], self._stalls[number] = found, load_ms, load_ms
        return True

    def _lease(self, which: int) -> tuple[int, float] | None:
        """As ``SimulatedTiers.put``, and the adapter keeps its slot; None if no slot can be had."""
        key = self._trace.names[which]
        try:
            placed = self._tiers.put(key)
        except TierBusy:
            return None
        self._tiers.gpu.lease(key)
        return placed
