"""The warm process itself: it owns the device, keeps adapters in memory and in slots, and proves them.

``child`` asks it, from several threads. What is wrong with an adapter comes back as a report, or as its error.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

import torch

from lora_cli.core.results import Answers, LoadReport
from lora_cli.errors import FormatError, LoraCliError, MachineError
from lora_cli.runtime.base_weights import BaseWeights, CheckpointWeights, SyntheticWeights, has_checkpoint
from lora_cli.runtime.composable import scalings
from lora_cli.runtime.copies import refuse_changed_copies
from lora_cli.runtime.forward import lora_delta, route
from lora_cli.runtime.packing import pack, read_packed
from lora_cli.runtime.plan import Answer, Job, Plan, Ready, Served, TierName
from lora_cli.runtime.proof import prove
from lora_cli.runtime.room import available_bytes, refuse_if_short
from lora_cli.runtime.slots import BASE_SLOT, Slots
from lora_cli.runtime.weights import LoraWeights, read_weights, weight_bytes
from lora_cli.runtime.whole import WholeModel
from lora_cli.store import Store
from lora_cli.tiers.budget import Budget
from lora_cli.tiers.tier import Tier

SERVED_TOKENS = 8
"""Tokens of the small batch that ``serve`` sends through an adapter."""


def quiet(_stage: str) -> None:
    """Tell nobody."""


class Clock:
    """One request at hand: whose it is, milliseconds by stage, and the stage that runs now."""

    def __init__(self, job: Job, tell: Callable[[str], None]) -> None:
        self.job, self._tell = job, tell
        self.stage = ""
        self.ms: dict[str, float] = {}

    def began(self, stage: str) -> None:
        """Tell the parent."""
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


class Worker:
    """Holds what stays between requests: slots, tiers, the base's weights and, when asked for, the whole model.

    Requests may come from several threads; the device runs one forward at a time.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.device = _device(plan.device)
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.store = Store(plan.cache_dir) if plan.cache_dir is not None else None
        self.unpacked: set[str] = set()
        self._running = threading.Lock()
        modules = {path: plan.base.modules[path] for path in plan.modules}
        needed = (1 + plan.max_loras) * plan.max_lora_rank * self.dtype.itemsize
        needed *= sum(module.d_in + module.d_out for module in modules.values())
        refuse_if_short(
            f"{plan.max_loras} slots of rank {plan.max_lora_rank}",
            needed,
            available_bytes(self.device),
            hint="lower --max-loras or --max-lora-rank",
        )
        self.slots = Slots(modules, plan.max_loras, plan.max_lora_rank, dtype=self.dtype, device=self.device)
        self.whole = WholeModel(plan, self.slots, self.dtype, self.device) if plan.forward == "model" else None
        self.base, self.notes = self._base_weights()
        self.memory: Tier[LoraWeights] = Tier.by(
            plan.eviction,
            "cpu",
            Budget(plan.max_cpu_loras, plan.max_cpu_bytes),
            weigh=self._weigh,
            load=self._read,
        )
        self.resident: Tier[int] = Tier.by(
            plan.eviction,
            "gpu",
            Budget(plan.max_loras),
            weigh=lambda _key: self.slots.slot_bytes,
            load=self._put,
            drop=lambda _key, slot: self.slots.clear(slot),
        )

    def ready(self) -> Ready:
        """What the parent should know before the first request."""
        dtype = str(self.dtype).removeprefix("torch.")
        return Ready(str(self.device), dtype, self.base.origin, self.slots.slot_bytes, self.notes)

    def at_hand(self, job: Job) -> bool:
        """Whether it is on the device now."""
        return self.resident.holds(job.key)

    def load(self, job: Job, tell: Callable[[str], None] = quiet) -> LoadReport:
        """Read, put into a slot and prove one adapter. What fails stands in the report and leaves the tiers."""
        report = LoadReport(job.name, job.digest)
        try:
            with (
                self._job(job, tell) as clock,
                self.resident.lease(job.key) as slot,
                self.memory.lease(job.key) as weights,
            ):
                report = replace(report, slot=slot.value, rank=weights.value.rank, bytes=weights.value.size)
                with clock.at("proof"), self._running:
                    proof = prove(self.slots, slot.value, weights.value, self.base, seed=self.plan.seed)
                report = replace(report, proof=proof)
                if proof.holds and self.whole is not None:
                    with clock.at("model"), self._running:
                        self.whole.check(slot.value)
                if proof.holds:
                    self._pack(job)
        except LoraCliError as error:
            report = replace(report, stage=AT_HAND.get().stage, error=error.message, hint=error.hint)
            report = replace(report, exit_code=error.exit_code)
        if report.proof is not None and not report.proof.holds:
            worst = report.proof.worst
            said = f"{worst.module}: {worst.reason}" if worst else "it has no modules"
            report = replace(report, stage="proof", error=f"the proof fails: {said}", exit_code=1)
        if report.error:
            self._forget(job.key)
        return replace(report, stage_ms=dict(AT_HAND.get().ms))

    def serve(self, job: Job, tell: Callable[[str], None] = quiet) -> Served:
        """Have an adapter in its slot and send a small batch through its modules.

        Raises:
            LoraCliError: it cannot be loaded.
        """
        tier: TierName = "disk"
        if self.resident.holds(job.key):
            tier = "gpu"
        elif self.memory.holds(job.key):
            tier = "cpu"
        before = self.resident.counts().evictions, self.memory.counts().evictions
        began = time.perf_counter()
        with self._job(job, tell), self.resident.lease(job.key) as slot:
            self._wait_for_device()
            loaded = time.perf_counter()
            with self._running:
                self._small_batch(slot.value)
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
            raise MachineError("answers need the whole model", hint="--forward model")
        with self._job(request.job, tell), self.resident.lease(request.job.key) as slot, self._running:
            return self.whole.answer(request.job.name, slot.value, request.prompt, request.max_tokens)

    @contextmanager
    def _job(self, job: Job, tell: Callable[[str], None]) -> Iterator[Clock]:
        """Have ``job`` at hand; what the device or the machine has no room for is its error."""
        clock = Clock(job, tell)
        AT_HAND.set(clock)
        if job.pinned:
            self.memory.pin(job.key)
            self.resident.pin(job.key)
        try:
            yield clock
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise MachineError("out of memory", hint="lower --max-loras, --max-cpu-loras or --max-lora-rank") from error
        except RuntimeError as error:
            if "DefaultCPUAllocator" not in str(error):
                raise
            raise MachineError("out of memory", hint="lower --max-loras or --max-cpu-loras") from error

    def _weigh(self, _key: str) -> int:
        return weight_bytes(AT_HAND.get().job.adapter)

    def _read(self, key: str) -> LoraWeights:
        clock = AT_HAND.get()
        job = clock.job
        with clock.at("read"):
            scaling = scalings(job.adapter, self.plan.base)
            if self.whole is not None:
                self.whole.refuse(job.name, scaling)
            refuse_changed_copies(job.directory, job.adapter, self.plan.base, self.base)
            if self.store is not None and job.digest:
                packed = read_packed(self.store, job.digest, job.adapter, scaling)
                if packed is not None:
                    return packed
                self.unpacked.add(key)
            return read_weights(job.directory, job.adapter, scaling)

    def _pack(self, job: Job) -> None:
        """Pack what was read from its snapshot. It is for the next time, so nobody's load is made to wait for it."""
        if self.store is not None and job.key in self.unpacked:
            self.unpacked.discard(job.key)
            AT_HAND.get().began("pack")
            with self.memory.lease(job.key) as weights:
                pack(self.store, job.digest, job.adapter, weights.value, self.plan.base)

    def _put(self, key: str) -> int:
        with self.memory.lease(key) as weights, AT_HAND.get().at("slot"):
            slot = self.slots.put(weights.value)
            self._wait_for_device()
            return slot

    def _forget(self, key: str) -> None:
        self.resident.discard(key)
        self.memory.discard(key)

    def _small_batch(self, slot: int) -> None:
        routing = route(torch.tensor([slot, BASE_SLOT] * (SERVED_TOKENS // 2), device=self.device))
        with torch.inference_mode():
            for path in self.slots.on(slot):
                stack = self.slots.stacks[path]
                shape = (SERVED_TOKENS,) if stack.embedding else (SERVED_TOKENS, stack.a.shape[2])
                dtype = torch.long if stack.embedding else self.dtype
                lora_delta(torch.ones(shape, dtype=dtype, device=self.device), stack, routing)
        self._wait_for_device()

    def _wait_for_device(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _base_weights(self) -> tuple[BaseWeights, tuple[str, ...]]:
        """The model's, else the checkpoint's own, else synthetic ones, and why."""
        if self.whole is not None:
            return self.whole.composed, ()
        plan = self.plan
        if plan.base_directory is None or not has_checkpoint(plan.base_directory):
            return SyntheticWeights(plan.base, plan.seed), ()
        try:
            return CheckpointWeights(plan.base_directory, plan.base, plan.modules), ()
        except FormatError as error:
            note = f"proofs use synthetic base weights: {error.message}"
            return SyntheticWeights(plan.base, plan.seed), (note,)


def _device(asked: str) -> torch.device:
    if asked == "cuda" and not torch.cuda.is_available():
        raise MachineError("this torch sees no CUDA device", hint="--device cpu, or install torch with CUDA")
    chosen = "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"
    # The proof's tolerance counts on float32 sums; torch may otherwise add up parts of a bfloat16 product in bfloat16.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    return torch.device(chosen)
