"""The worker of the warm process: it owns the device, keeps adapters in memory and in slots, and proves them.

``worker_process`` calls it from several threads. An adapter's failure is in its report, or raised.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch

from lora_cli.base.checkpoint import has_weights
from lora_cli.errors import FormatError, LoraCliError, MachineError
from lora_cli.results import Answers, LoadReport
from lora_cli.runtime.adapter_weights import weight_bytes
from lora_cli.runtime.base_weights import BaseWeights, CheckpointWeights, SyntheticWeights
from lora_cli.runtime.composable import largest_rank
from lora_cli.runtime.device_lock import DeviceLock
from lora_cli.runtime.full_model import FullModel
from lora_cli.runtime.generation import GenerationLoop
from lora_cli.runtime.host_weights import HostWeights
from lora_cli.runtime.lora_forward import lora_delta, route
from lora_cli.runtime.lora_slots import BASE_SLOT
from lora_cli.runtime.memory_check import out_of_memory, storage
from lora_cli.runtime.messages import CompareGreedy, LoraRequest, ProbeResult, Ready, TierContents, TierName, TierStatus
from lora_cli.runtime.numerical_proof import prove
from lora_cli.runtime.plan import Plan
from lora_cli.tiers.eviction import POLICIES, new_ledger
from lora_cli.tiers.memory_accounting import Budget
from lora_cli.tiers.tier import Tier


def ignore_stage(_stage: str) -> None:
    """The default of ``on_stage``."""


class StageTimer:
    """The adapter of the current request, the milliseconds of each stage, and the running stage."""

    def __init__(self, lora: LoraRequest, on_stage: Callable[[str], None]) -> None:
        self.lora, self._on_stage = lora, on_stage
        self.stage = ""
        self.ms: dict[str, float] = {}

    def start_stage(self, stage: str) -> None:
        """Report to the parent."""
        self.stage = stage
        self._on_stage(stage)

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """Time the block as ``stage``."""
        self.start_stage(stage)
        began = time.perf_counter()
        yield
        self.ms[stage] = (time.perf_counter() - began) * 1e3


CURRENT_REQUEST: ContextVar[StageTimer] = ContextVar("current_request")
"""The request that this thread handles: what a tier loads meanwhile is loaded for it."""


SERVED_TOKENS = 8
"""Tokens of the small batch that ``serve`` sends through an adapter."""

LEASE_TIMEOUT_S = 60.0
"""How long a request waits for a slot."""


class Worker:
    """The state of the warm process: slots, tiers, the base's weights and, with ``forward="model"``, the full model.

    Requests may come from several threads; the device runs one forward at a time.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.device = _device(plan.device)
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.device_lock = DeviceLock()
        self.slots, self.host_slots, places = storage(plan, self.dtype, self.device)
        self.host_weights = HostWeights(self.host_slots, plan.base, full_model=plan.forward == "model")
        self._undo: dict[int, ExitStack] = {}
        self.full_model = FullModel(plan, self.slots, self.dtype, self.device) if plan.forward == "model" else None
        self.base, self.notes = self._base_weights()
        self.generation = GenerationLoop(self.full_model.composed, self.device_lock) if self.full_model else None
        policy = POLICIES[plan.eviction]
        wanted, most_bytes = plan.limits.max_cpu_loras, plan.limits.max_cpu_bytes
        if places < wanted and most_bytes is None:
            self.notes = (f"the memory is enough for {places} adapters, not for {wanted}", *self.notes)
        self.cpu_tier: Tier[int] = Tier(
            new_ledger(policy, "cpu", Budget(places, most_bytes)),
            weigh=lambda _key: self.host_weights.weigh(CURRENT_REQUEST.get().lora),
            load=self._read_to_host,
            name_of=lambda _key: CURRENT_REQUEST.get().lora.name,
            drop=lambda _key, place: self.host_weights.let_go(place),
        )
        self.gpu_tier: Tier[int] = Tier(
            new_ledger(policy, "gpu", Budget(plan.limits.max_loras)),
            weigh=lambda _key: self.slots.slot_bytes,
            load=self._copy_to_slot,
            name_of=lambda _key: CURRENT_REQUEST.get().lora.name,
            drop=self._evict_slot,
        )

    def ready(self) -> Ready:
        """The answer to the start."""
        dtype = str(self.dtype).removeprefix("torch.")
        return Ready(str(self.device), dtype, self.base.origin, self.notes)

    def load(self, lora: LoraRequest, on_stage: Callable[[str], None] = ignore_stage) -> LoadReport:
        """Read, put into a slot and prove one adapter. A failure is in the report, and the adapter is dropped."""
        report = LoadReport(lora.name, lora.digest, tier=self._tier_of(lora))
        try:
            with (
                self._request(lora, on_stage) as timer,
                self.gpu_tier.lease(lora.key, timeout_s=LEASE_TIMEOUT_S) as slot,
            ):
                rank = largest_rank(lora.adapter, self.plan.base)
                report = replace(report, slot=slot, rank=rank, bytes=weight_bytes(lora.adapter))
                with timer.at("proof"):
                    weights = self.host_weights.weights(lora)
                    turn = self.device_lock.background
                    proof = prove(self.slots, slot, weights, self.base, seed=self.plan.seed, turn=turn)
                # Without factors in a slot (fused experts alone) the whole model says whether it does anything.
                report = replace(report, proof=proof if proof.modules or self.full_model is None else None)
                if self.full_model is not None and (report.proof is None or proof.holds):
                    with timer.at("model"), self.device_lock.background():
                        report = replace(report, moved=self.full_model.check(slot))
        except LoraCliError as error:
            report = report.failed(CURRENT_REQUEST.get().stage, error)
        if report.proof is not None and not report.proof.holds:
            worst = report.proof.worst
            said = f"{worst.module}: {worst.reason}" if worst else "it has no modules"
            report = replace(report, stage="proof", error=f"the proof failed: {said}", exit_code=1)
        if report.error:
            self._discard(lora.key)
        return replace(report, stage_ms=dict(CURRENT_REQUEST.get().ms))

    def serve(self, lora: LoraRequest, on_stage: Callable[[str], None] = ignore_stage) -> ProbeResult:
        """Put an adapter into a slot and send a small batch through its modules.

        Raises:
            LoraCliError: it cannot be loaded.
        """
        tier = self._tier_of(lora)
        before = self.gpu_tier.counts().evictions, self.cpu_tier.counts().evictions
        began = time.perf_counter()
        with self._request(lora, on_stage), self.gpu_tier.lease(lora.key, timeout_s=LEASE_TIMEOUT_S) as slot:
            self._wait_for_device()
            loaded = time.perf_counter()
            with self.device_lock.request():
                self._small_batch(slot)
            done = time.perf_counter()
        after = self.gpu_tier.counts().evictions, self.cpu_tier.counts().evictions
        evicted: dict[TierName, int] = {"gpu": after[0] - before[0], "cpu": after[1] - before[1]}
        return ProbeResult(tier, (loaded - began) * 1e3, (done - loaded) * 1e3, evicted)

    def answer(self, request: CompareGreedy, on_stage: Callable[[str], None] = ignore_stage) -> Answers:
        """The base's and the adapter's own greedy answer to one prompt.

        Raises:
            LoraCliError: the adapter cannot be loaded, or there is no whole model.
        """
        if self.full_model is None:
            raise MachineError("generation needs the whole model", hint="--forward model")
        with (
            self._request(request.lora, on_stage),
            self.gpu_tier.lease(request.lora.key) as slot,
            self.device_lock.request(),
        ):
            return self.full_model.answer(request.lora.name, slot, request.prompt, request.max_tokens)

    def prefetch(self, lora: LoraRequest, on_stage: Callable[[str], None] = ignore_stage) -> bool:
        """Read an adapter into memory ahead of its requests, and into a slot where one is free; whether it was read.

        Raises:
            LoraCliError: it cannot be read.
        """
        with self._request(lora, on_stage):
            read = self.cpu_tier.prefetch(lora.key)
            if len(self.gpu_tier.keys()) < self.plan.limits.max_loras:
                self.gpu_tier.prefetch(lora.key)
            return read

    def drop(self, key: str) -> bool:
        """Remove an adapter from the tiers, unless it is in use; whether it is gone."""
        self._discard(key)
        return not self.gpu_tier.is_loaded(key) and not self.cpu_tier.is_loaded(key)

    def tier_contents(self) -> TierContents:
        """The contents of the tiers."""
        tiers = {"gpu": _status(self.gpu_tier), "cpu": _status(self.cpu_tier)}
        return TierContents(self.gpu_tier.eviction_order(), self.cpu_tier.eviction_order(), tiers)

    @contextmanager
    def _request(self, lora: LoraRequest, on_stage: Callable[[str], None]) -> Iterator[StageTimer]:
        """Make ``lora`` the current request; out of memory becomes its error."""
        timer = StageTimer(lora, on_stage)
        CURRENT_REQUEST.set(timer)
        with out_of_memory():
            if self._tier_of(lora) == "disk":
                timer.stage = "read"
                self._check(lora)
            if lora.pinned:
                self.cpu_tier.pin(lora.key)
                self.gpu_tier.pin(lora.key)
            yield timer

    def _check(self, lora: LoraRequest) -> None:
        """Check it by its header, before anything is evicted for it."""
        scalings = self.host_weights.check(lora, self.base)
        if self.full_model is not None:
            self.full_model.composed.refuse(lora.name, scalings)

    def lease_slot(self, lora: LoraRequest, leases: ExitStack) -> tuple[int, TierName]:
        """An adapter's slot, for as long as ``leases``, and where it was found. Raises ``LoraCliError``."""
        tier = self._tier_of(lora)
        with self._request(lora, ignore_stage):
            return leases.enter_context(self.gpu_tier.lease(lora.key, timeout_s=LEASE_TIMEOUT_S)), tier

    def _read_to_host(self, key: str) -> int:
        """Read the current request's adapter into a host slot."""
        timer = CURRENT_REQUEST.get()
        with timer.at("read"):
            return self.host_weights.put(timer.lora)

    def _copy_to_slot(self, key: str) -> int:
        """Copy an adapter from its host slot to a device slot; on a CPU both are the same slot.

        The clean-up for its eviction is kept in ``_undo``.
        """
        with self.cpu_tier.lease(key) as place, CURRENT_REQUEST.get().at("slot"), ExitStack() as kept:
            slot = place
            if self.host_slots is self.slots:
                self.host_weights.keep(place)
                kept.callback(self.host_weights.let_go, place)
            else:
                slot = self.slots.put_from(self.host_slots, place)
                kept.callback(self.slots.clear, slot)
            if self.full_model is not None:
                extra = self.host_weights.extra_weights(place)
                kept.enter_context(self.full_model.composed.with_extra_weights(slot, extra))
            self._wait_for_device()
            self._undo[slot] = kept.pop_all()
            return slot

    def _evict_slot(self, _key: str, slot: int) -> None:
        self._undo.pop(slot).close()

    def _tier_of(self, lora: LoraRequest) -> TierName:
        """The tier where it is now."""
        if self.gpu_tier.is_loaded(lora.key):
            return "gpu"
        return "cpu" if self.cpu_tier.is_loaded(lora.key) else "disk"

    def _discard(self, key: str) -> None:
        self.gpu_tier.discard(key)
        self.cpu_tier.discard(key)

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
        """The weights of the full model, else of the checkpoint, else synthetic ones, with a note."""
        if self.full_model is not None:
            return self.full_model.composed, ()
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
