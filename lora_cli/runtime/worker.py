"""The warm process itself: it owns the device, keeps adapters in memory and in slots, and proves them.

``child`` asks it, from several threads. What is wrong with an adapter comes back as a report, or as its error.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch

from lora_cli.core.results import Answers, LoadReport
from lora_cli.errors import FormatError, LoraCliError, MachineError
from lora_cli.reading.base_model import has_weights
from lora_cli.runtime.adapter_weights import LoraWeights, weight_bytes
from lora_cli.runtime.base_weights import BaseWeights, CheckpointWeights, SyntheticWeights
from lora_cli.runtime.composable import largest_rank
from lora_cli.runtime.device_lock import Turns
from lora_cli.runtime.full_model import WholeModel
from lora_cli.runtime.host_weights import Shelf
from lora_cli.runtime.lora_forward import lora_delta, route
from lora_cli.runtime.lora_slots import BASE_SLOT
from lora_cli.runtime.memory_check import out_of_memory, storage
from lora_cli.runtime.messages import Answer, Holdings, Job, Ready, Served, TierName, TierStatus
from lora_cli.runtime.numerical_proof import prove
from lora_cli.runtime.plan import Plan
from lora_cli.store import Store
from lora_cli.tiers.access_history import History
from lora_cli.tiers.budget import Budget
from lora_cli.tiers.eviction.registry import POLICIES, new_ledger
from lora_cli.tiers.tier import Tier


def quiet(_stage: str) -> None:
    """Report nothing."""


class Clock:
    """One request at hand: whose it is, milliseconds by stage, and the stage that runs now."""

    def __init__(self, job: Job, tell: Callable[[str], None]) -> None:
        self.job, self._tell = job, tell
        self.stage = ""
        self.ms: dict[str, float] = {}

    def began(self, stage: str) -> None:
        """Report to the parent."""
        self.stage = stage
        self._tell(stage)

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """Time the block as ``stage``."""
        self.began(stage)
        began = time.perf_counter()
        yield
        self.ms[stage] = (time.perf_counter() - began) * 1e3


AT_HAND: ContextVar[Clock] = ContextVar("at_hand")
"""The request of this thread: what a tier loads while it is served is loaded for it."""


SERVED_TOKENS = 8
"""Tokens of the small batch that ``serve`` sends through an adapter."""

PATIENCE_S = 60.0
"""How long a request waits for room that others use or are being loaded into."""


class Worker:
    """Holds what stays between requests: slots, tiers, the base's weights and, when asked for, the whole model.

    Requests may come from several threads; the device runs one forward at a time.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.device = _device(plan.device)
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.store = Store(plan.cache_dir) if plan.cache_dir is not None else None
        self.turns = Turns()
        self.slots, self.slab, places = storage(plan, self.dtype, self.device)
        self.shelf = Shelf(self.slab, plan.base, self.store, whole=plan.forward == "model")
        self._kept: dict[int, ExitStack] = {}
        self._histories: dict[str, History] = {}
        self.whole = WholeModel(plan, self.slots, self.dtype, self.device) if plan.forward == "model" else None
        self.base, self.notes = self._base_weights()
        policy = POLICIES[plan.eviction]
        wanted, most_bytes = plan.limits.max_cpu_loras, plan.limits.max_cpu_bytes
        if places < wanted and most_bytes is None:
            self.notes = (f"there is memory for {places} adapters, not for {wanted}", *self.notes)
        self.memory: Tier[int] = Tier(
            new_ledger(policy, "cpu", Budget(places, most_bytes), self._known("cpu")),
            weigh=lambda _key: self.shelf.weigh(AT_HAND.get().job),
            load=self._read,
            called=lambda _key: AT_HAND.get().job.name,
            drop=lambda _key, place: self.shelf.let_go(place),
        )
        self.resident: Tier[int] = Tier(
            new_ledger(policy, "gpu", Budget(plan.limits.max_loras), self._known("gpu")),
            weigh=lambda _key: self.slots.slot_bytes,
            load=self._put,
            called=lambda _key: AT_HAND.get().job.name,
            drop=self._take_back,
        )

    def ready(self) -> Ready:
        """What the parent should know before the first request."""
        dtype = str(self.dtype).removeprefix("torch.")
        return Ready(str(self.device), dtype, self.base.origin, self.notes)

    def at_hand(self, job: Job) -> bool:
        """Whether it is on the device now."""
        return self.resident.holds(job.key)

    def load(self, job: Job, tell: Callable[[str], None] = quiet) -> LoadReport:
        """Read, put into a slot and prove one adapter. What fails is in the report and leaves the tiers."""
        report = LoadReport(job.name, job.digest, tier=self._tier_of(job))
        try:
            with self._job(job, tell) as clock, self.resident.lease(job.key, patience_s=PATIENCE_S) as slot:
                rank = largest_rank(job.adapter, self.plan.base)
                report = replace(report, slot=slot, rank=rank, bytes=weight_bytes(job.adapter))
                with clock.at("proof"):
                    weights = self.shelf.weights(job)
                    turn = self.turns.background
                    proof = prove(self.slots, slot, weights, self.base, seed=self.plan.seed, turn=turn)
                # Without factors in a slot (fused experts alone) the whole model says whether it does anything.
                report = replace(report, proof=proof if proof.modules or self.whole is None else None)
                if self.whole is not None and (report.proof is None or proof.holds):
                    with clock.at("model"), self.turns.background():
                        report = replace(report, moved=self.whole.check(slot))
                if report.proof is None or proof.holds:
                    self._pack(job, weights)
        except LoraCliError as error:
            report = report.failed(AT_HAND.get().stage, error)
        if report.proof is not None and not report.proof.holds:
            worst = report.proof.worst
            said = f"{worst.module}: {worst.reason}" if worst else "it has no modules"
            report = replace(report, stage="proof", error=f"the proof failed: {said}", exit_code=1)
        if report.error:
            self._forget(job.key)
        return replace(report, stage_ms=dict(AT_HAND.get().ms))

    def serve(self, job: Job, tell: Callable[[str], None] = quiet) -> Served:
        """Have an adapter in its slot and send a small batch through its modules.

        Raises:
            LoraCliError: it cannot be loaded.
        """
        tier = self._tier_of(job)
        before = self.resident.counts().evictions, self.memory.counts().evictions
        began = time.perf_counter()
        with self._job(job, tell), self.resident.lease(job.key, patience_s=PATIENCE_S) as slot:
            self._wait_for_device()
            loaded = time.perf_counter()
            with self.turns.request():
                self._small_batch(slot)
            done = time.perf_counter()
            self._pack(job)
        after = self.resident.counts().evictions, self.memory.counts().evictions
        evicted: dict[TierName, int] = {"gpu": after[0] - before[0], "cpu": after[1] - before[1]}
        return Served(tier, (loaded - began) * 1e3, (done - loaded) * 1e3, evicted)

    def answer(self, request: Answer, tell: Callable[[str], None] = quiet) -> Answers:
        """The base's and the adapter's own greedy answer to one prompt.

        Raises:
            LoraCliError: the adapter cannot be loaded, or there is no whole model.
        """
        if self.whole is None:
            raise MachineError("generation needs the whole model", hint="--forward model")
        with self._job(request.job, tell), self.resident.lease(request.job.key) as slot, self.turns.request():
            return self.whole.answer(request.job.name, slot, request.prompt, request.max_tokens)

    def prefetch(self, job: Job, tell: Callable[[str], None] = quiet) -> bool:
        """Read an adapter into memory ahead of its requests, and into a slot where one is free; whether it was read.

        Raises:
            LoraCliError: it cannot be read.
        """
        with self._job(job, tell):
            read = self.memory.prefetch(job.key)
            if len(self.resident.keys()) < self.plan.limits.max_loras:
                self.resident.prefetch(job.key)
            return read

    def drop(self, key: str) -> bool:
        """Release an adapter, unless it is in use; whether it is gone."""
        self._forget(key)
        return not self.resident.holds(key) and not self.memory.holds(key)

    def look(self, *, with_history: bool) -> Holdings:
        """What the tiers hold now."""
        history = {name: known.state() for name, known in self._histories.items()} if with_history else {}
        tiers = {"gpu": _status(self.resident), "cpu": _status(self.memory)}
        return Holdings(self.resident.keys(), self.memory.keys(), tiers, history)

    @contextmanager
    def _job(self, job: Job, tell: Callable[[str], None]) -> Iterator[Clock]:
        """Have ``job`` at hand; what the device or the machine has no room for is its error."""
        clock = Clock(job, tell)
        AT_HAND.set(clock)
        with out_of_memory():
            if self._tier_of(job) == "disk":
                clock.stage = "read"
                self._check(job)
            if job.pinned:
                self.memory.pin(job.key)
                self.resident.pin(job.key)
            yield clock

    def _check(self, job: Job) -> None:
        """Raises what refuses it by its header: nothing is evicted for what could not be loaded."""
        scalings = self.shelf.check(job, self.base)
        if self.whole is not None:
            self.whole.composed.refuse(job.name, scalings)

    def leased(self, job: Job, leases: ExitStack) -> tuple[int, TierName]:
        """An adapter's slot, for as long as ``leases``, and where it was found. Raises ``LoraCliError``."""
        tier = self._tier_of(job)
        with self._job(job, quiet):
            return leases.enter_context(self.resident.lease(job.key, patience_s=PATIENCE_S)), tier

    def _read(self, key: str) -> int:
        """Read what is at hand into a place in memory."""
        clock = AT_HAND.get()
        with clock.at("read"):
            return self.shelf.put(clock.job)

    def _pack(self, job: Job, weights: LoraWeights | None = None) -> None:
        if self.shelf.is_unpacked(job):
            AT_HAND.get().began("pack")
            self.shelf.pack(job, weights)

    def _put(self, key: str) -> int:
        """From its place in memory to a slot: one copy; where memory is the device, the place is the slot.

        What undoes it is kept.
        """
        with self.memory.lease(key) as place, AT_HAND.get().at("slot"), ExitStack() as kept:
            slot = place
            if self.slab is self.slots:
                self.shelf.keep(place)
                kept.callback(self.shelf.let_go, place)
            else:
                slot = self.slots.put_from(self.slab, place)
                kept.callback(self.slots.clear, slot)
            if self.whole is not None:
                kept.enter_context(self.whole.composed.dressed(slot, self.shelf.beside(place)))
            self._wait_for_device()
            self._kept[slot] = kept.pop_all()
            return slot

    def _take_back(self, _key: str, slot: int) -> None:
        self._kept.pop(slot).close()

    def _tier_of(self, job: Job) -> TierName:
        """Where it is now."""
        if self.resident.holds(job.key):
            return "gpu"
        return "cpu" if self.memory.holds(job.key) else "disk"

    def _known(self, tier: str) -> History:
        """What an earlier process knew of this tier's adapters, if anything."""
        state = self.plan.history.get(tier)
        self._histories[tier] = History() if state is None else History.restored(state, f"the history of {tier}")
        return self._histories[tier]

    def _forget(self, key: str) -> None:
        self.resident.discard(key)
        self.memory.discard(key)

    def _small_batch(self, slot: int) -> None:
        segments = route([slot, BASE_SLOT] * (SERVED_TOKENS // 2), self.slots)
        with torch.inference_mode():
            for path in self.slots.on(slot):
                stack = self.slots.stacks[path]
                shape = (SERVED_TOKENS,) if stack.embedding else (SERVED_TOKENS, stack.d_in)
                dtype = torch.long if stack.embedding else self.dtype
                lora_delta(torch.ones(shape, dtype=dtype, device=self.device), stack, segments)
        self._wait_for_device()

    def _wait_for_device(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _base_weights(self) -> tuple[BaseWeights, tuple[str, ...]]:
        """The model's, else the checkpoint's own, else synthetic ones, and why."""
        if self.whole is not None:
            return self.whole.composed, ()
        plan = self.plan
        if plan.base_directory is None or not has_weights(plan.base_directory):
            return SyntheticWeights(plan.base, plan.seed), ()
        try:
            return CheckpointWeights(plan.base_directory, plan.base, plan.modules), ()
        except FormatError as error:
            note = f"adapters are proved on synthetic base weights: {error.message}"
            return SyntheticWeights(plan.base, plan.seed), (note,)


def _status(tier: Tier[Any]) -> TierStatus:
    counts, budget = tier.counts(), tier.budget
    kept = len(tier.keys()), budget.items, tier.used_bytes(), budget.max_bytes
    return TierStatus(*kept, counts.hits, counts.loads, counts.evictions)


def _device(asked: str) -> torch.device:
    if asked == "cuda" and not torch.cuda.is_available():
        raise MachineError("this torch finds no CUDA device", hint="--device cpu, or install torch with CUDA")
    chosen = "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"
    # The proof's tolerance counts on float32 sums; torch may otherwise add up parts of a bfloat16 product in bfloat16.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    return torch.device(chosen)
