"""The worker: it owns the device, keeps adapters in memory and in slots, and proves them.

Several threads may call it. There is one queue before the device: each step of a generation and each module of a proof
waits its turn there, so that a request waits for one module of a proof at most.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch

from lora_cli.base.reading import has_weights
from lora_cli.errors import FormatError, LoraCliError, MachineError, Refused
from lora_cli.results import LoadReport
from lora_cli.warm.base_weights import BaseWeights, CheckpointWeights, SyntheticWeights
from lora_cli.warm.composable import copied_modules, scalings
from lora_cli.warm.composed import FullModel, Slot
from lora_cli.warm.plan import LoraRequest, Plan, TierName
from lora_cli.warm.proof import prove
from lora_cli.warm.tiers import Tier
from lora_cli.warm.weights import LoadedAdapter, load_adapter, read_tensors, read_weights

T = TypeVar("T")
OnStage = Callable[[str, str], None]
"""Called with an adapter's name and a stage that begins."""

LEASE_TIMEOUT_S = 60.0
"""How long a request waits for a slot."""


@contextmanager
def out_of_memory() -> Iterator[None]:
    """Translates errors of a device or machine that is out of memory within the block to ``MachineError``."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and "DefaultCPUAllocator" not in str(error):
            raise
        raise MachineError("out of memory", hint="lower --max-loras or --max-cpu-loras") from error


@dataclass(slots=True)
class _Stages:
    """The milliseconds of each stage of one load, and the running stage."""

    name: str
    on_stage: OnStage = lambda _name, _stage: None
    stage: str = "read"
    ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """Time the block as ``stage``."""
        self.stage = stage
        self.on_stage(self.name, stage)
        began = time.perf_counter()
        with out_of_memory():
            yield
        self.ms[stage] = (time.perf_counter() - began) * 1e3


class Worker:
    """Slots, adapters in memory, the base's weights and, with ``forward="model"``, the full model.

    ``notes`` are messages for the user. Evictions follow aged LFU: of Zipf, drifting and scanning requests it is never
    far from the better of LRU and LFU.

    Raises:
        LoraCliError: there is no such device, or the base cannot be loaded.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        if plan.device == "cuda" and not torch.cuda.is_available():
            raise MachineError("this torch finds no CUDA device", hint="--device cpu, or install torch with CUDA")
        self.device = torch.device("cuda" if plan.device != "cpu" and torch.cuda.is_available() else "cpu")
        # The proof's tolerance counts on float32 sums; torch may otherwise add up parts of a product in bfloat16.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.full_model = FullModel(plan, self.dtype, self.device) if plan.forward == "model" else None
        self.notes: tuple[str, ...] = ()
        self.base: BaseWeights = self.full_model or SyntheticWeights(plan.base)
        if self.full_model is None and plan.base_directory is not None and has_weights(plan.base_directory):
            try:
                self.base = CheckpointWeights(plan.base_directory, plan.base)
            except FormatError as error:
                self.notes = (f"adapters are proved on synthetic base weights: {error.message}",)
        self.memory: Tier[LoadedAdapter] = Tier("cpu", plan.max_cpu_loras)
        self.slots: Tier[Slot] = Tier("gpu", plan.max_loras)
        self._queue = ThreadPoolExecutor(1, "device")

    def status(self) -> Mapping[str, Mapping[str, int]]:
        """What is in each tier, the most that may be, and its counters."""
        return {
            "gpu": self.slots.status(lambda slot: slot.adapter.storage.nbytes),
            "cpu": self.memory.status(lambda held: held.storage.nbytes),
        }

    def close(self) -> None:
        """End the device's thread."""
        self._queue.shutdown(cancel_futures=True)

    def on_device(self, call: Callable[[], T]) -> "Future[T]":
        """The coming result of ``call``, which has the device for itself, or ``MachineError``: out of memory."""

        def run() -> T:
            with out_of_memory():
                return call()

        return self._queue.submit(run)

    def load(self, lora: LoraRequest, on_stage: OnStage = lambda _name, _stage: None) -> LoadReport:
        """Read, put into a slot and prove one adapter. A failure is in the report, and the adapter is dropped."""
        stages, model = _Stages(lora.name, on_stage), self.full_model
        report = LoadReport(lora.name, lora.key, tier=self.tier_of(lora))
        try:
            with self.lease(lora, stages) as slot:
                pairs, modules = lora.adapter.pairs, self.plan.base.modules
                rank = max((pair.rank or 0 for path, pair in pairs.items() if path in modules), default=0)
                factors = [info for pair in pairs.values() for info in (pair.a, pair.b) if info is not None]
                report = replace(report, rank=rank, bytes=sum(info.nbytes for info in factors))
                with stages.at("proof"):
                    scaling = scalings(lora.adapter, self.plan.base, full_model=model is not None)
                    weights = read_weights(lora.directory, lora.adapter, scaling)
                    step = lambda check: self.on_device(check).result()  # noqa: E731 - a module of a proof
                    proof = prove(slot.adapter, weights, self.base, step=step)
                # Without factors in a slot (fused experts alone) the whole model says whether it does anything.
                report = replace(report, proof=proof if proof.modules or model is None else None)
                if model is not None and (report.proof is None or proof.holds):
                    with stages.at("model"):
                        report = replace(report, moved=self.on_device(lambda: model.check(slot)).result())
        except LoraCliError as error:
            report = report.failed(stages.stage, error)
        if report.proof is not None and not report.proof.holds:
            worst = report.proof.worst
            said = f"{worst.module}: {worst.reason}" if worst else "it has no modules"
            report = report.failed("proof", Refused(f"the proof failed: {said}"))
        if report.error:
            self.drop(lora.key)
        return replace(report, stage_ms=stages.ms)

    @contextmanager
    def lease(self, lora: LoraRequest, stages: _Stages | None = None) -> Iterator[Slot]:
        """An adapter's slot, which it keeps within the block.

        Raises:
            LoraCliError: it cannot be loaded, or no slot became free in time.
        """
        timing, pin_memory = stages or _Stages(lora.name), self.device.type == "cuda"
        if self.tier_of(lora) == "disk":
            # By its header, before anything is evicted for it.
            modules = scalings(lora.adapter, self.plan.base, full_model=self.full_model is not None)
            refuse_changed_copies(lora, self.plan, self.base)
            if self.full_model is not None:
                self.full_model.refuse(lora.name, modules)
        if lora.keep_loaded:
            self.memory.kept.add(lora.key)
            self.slots.kept.add(lora.key)

        def read() -> LoadedAdapter:
            full, base = self.full_model is not None, self.plan.base
            with timing.at("read"):
                return load_adapter(lora.directory, lora.adapter, base, self.dtype, full_model=full, pinned=pin_memory)

        def put() -> Slot:
            held_in_memory = self.memory.lease(lora.key, read, name=lora.name, timeout_s=LEASE_TIMEOUT_S)
            with held_in_memory as held, timing.at("slot"):
                return self.on_device(lambda: self._put(held)).result()

        with self.slots.lease(lora.key, put, name=lora.name, timeout_s=LEASE_TIMEOUT_S) as slot:
            yield slot

    def drop(self, key: str) -> None:
        """Remove an adapter from slots and memory, unless it is in use."""
        self.slots.discard(key)
        self.memory.discard(key)

    def tier_of(self, lora: LoraRequest) -> TierName:
        """The tier where it is now."""
        if self.slots.is_loaded(lora.key):
            return "gpu"
        return "cpu" if self.memory.is_loaded(lora.key) else "disk"

    def _put(self, held: LoadedAdapter) -> Slot:
        """Copy an adapter to the device; on a CPU it is used where it is."""
        adapter = held.on(self.device)
        with torch.inference_mode():
            variants = self.full_model.variants(adapter) if self.full_model is not None else {}
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return Slot(adapter, variants)


def refuse_changed_copies(lora: LoraRequest, plan: Plan, weights: BaseWeights) -> None:
    """Compare every copy of the base's own weights, which PEFT saves next to a LoRA on an embedding or output layer.

    Its ``save_embedding_layers="auto"`` (``utils/save_and_load.py``) writes them whether or not they were changed. They
    say something only where they differ from the base's: a resized vocabulary, or layers that were trained as well.

    Raises:
        Refused: a copy differs, or there is no checkpoint to compare it with.
        Corrupt, MachineError: as reading raises.
    """
    for name, module in copied_modules(lora.adapter, plan.base).items():
        info = lora.adapter.tensors[name]
        if weights.origin != "base":
            raise Refused(
                f"{lora.name}: {info.name} is a copy of the base's own weight, but the base's weights are missing",
                hint="set --base to a directory with the model's safetensors files",
            )
        copy = read_tensors(lora.directory, [info])[info.name]
        own = weights.weight(module)
        own = own.t() if plan.base.modules[module].kind == "conv1d" else own
        if copy.shape != own.shape or not torch.equal(copy, own.to(copy.device, copy.dtype)):
            raise Refused(
                f"{lora.name}: {info.name} differs from the base's own weight and cannot be composed yet",
                hint="it was trained on another base, or the layer was also trained",
            )
