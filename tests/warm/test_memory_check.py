"""How much memory there is: what the machine and its container leave."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lora_cli.errors import MachineError
from lora_cli.runtime import memory_check
from lora_cli.runtime.lora_slots import storage_bytes
from lora_cli.runtime.messages import LoraRequest
from lora_cli.runtime.plan import Plan, TierLimits
from lora_cli.runtime.worker import Worker
from tests.making import Q_PROJ, llama_modules, write_adapter
from tests.runtime.reading import LLAMA, load, read

GIB = 1 << 30
CPU = torch.device("cpu")


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 GiB, and an empty folder that stands for the container's limits."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {64 * GIB >> 10} kB\n")
    monkeypatch.setattr(memory_check, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory_check, "CGROUP", tmp_path)
    return tmp_path


def limit(container: Path, limit: str, used: int, droppable: int) -> None:
    (container / "memory.max").write_text(f"{limit}\n")
    (container / "memory.current").write_text(f"{used}\n")
    (container / "memory.stat").write_text(f"anon 1\ninactive_anon 5\ninactive_file {droppable}\n")


def test_without_a_container_the_machine_says_what_is_free(container: Path) -> None:
    assert memory_check.available_bytes(CPU) == 64 * GIB
    limit(container, "max", GIB, 0)
    assert memory_check.available_bytes(CPU) == 64 * GIB


def test_a_container_leaves_what_its_limit_says_and_files_that_were_read_count_as_free(container: Path) -> None:
    limit(container, str(8 * GIB), 7 * GIB, 5 * GIB)
    assert memory_check.available_bytes(CPU) == 6 * GIB
    limit(container, str(8 * GIB), 9 * GIB, 0)
    assert memory_check.available_bytes(CPU) == 0


def test_what_is_short_is_said_in_bytes() -> None:
    with pytest.raises(MachineError, match="need 10 bytes, but 4 are free: 6 too few"):
        memory_check.refuse_if_short("slots", 10, 4, "fewer")
    memory_check.refuse_if_short("slots", 10, None, "nobody knows")


def plan(max_cpu_loras: int = 5, **more: Any) -> Plan:
    return Plan(LLAMA, tuple(llama_modules()), TierLimits(2, max_cpu_loras, 32, **more), device="cpu")


ONE = storage_bytes({path: LLAMA.modules[path] for path in llama_modules()}, 1, 32, torch.float32)
"""Bytes of a place, or of a slot on a CPU, of that plan."""


def free(container: Path, size: int) -> None:
    (container / "meminfo").write_text(f"MemAvailable: {-(-size // 1024)} kB\n")


def test_memory_has_places_for_what_its_bytes_hold(container: Path) -> None:
    for max_cpu_bytes, places in ((None, 5), (3 * ONE + 1, 3), (50 * ONE, 5)):
        slots, host_slots, found = memory_check.storage(plan(max_cpu_bytes=max_cpu_bytes), torch.float32, CPU)
        assert (slots is host_slots, found, host_slots.storage.nbytes) == (True, places, (places + 2) * ONE)
    with pytest.raises(MachineError, match=f"the factors of an adapter of rank 32 need {ONE} bytes, but 7 are free"):
        memory_check.storage(plan(max_cpu_bytes=7), torch.float32, CPU)


def test_slots_and_places_are_weighed_together_before_they_are_taken(container: Path) -> None:
    free(container, 7 * ONE - 2048)
    with pytest.raises(MachineError, match=f"5 adapters in memory and 2 slots of rank 32 need {7 * ONE} bytes"):
        memory_check.storage(plan(), torch.float32, CPU)


def test_a_container_of_the_first_kind_of_control_groups_has_a_limit_too(container: Path) -> None:
    (container / "memory").mkdir()
    for file, text in (("limit_in_bytes", str(8 * GIB)), ("usage_in_bytes", str(7 * GIB))):
        (container / "memory" / f"memory.{file}").write_text(f"{text}\n")
    (container / "memory" / "memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {5 * GIB}\n")
    assert memory_check.available_bytes(CPU) == 6 * GIB
    (container / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert memory_check.available_bytes(CPU) == 64 * GIB


def test_places_that_nobody_asked_for_take_half_of_what_the_slots_leave(container: Path) -> None:
    free(container, 8 * ONE + 2048)
    assert memory_check.storage(plan(fewer_places=True), torch.float32, CPU)[2] == 3
    free(container, 3 * ONE - 2048)
    with pytest.raises(MachineError, match="1 adapters in memory and 2 slots"):
        memory_check.storage(plan(fewer_places=True), torch.float32, CPU)


@pytest.mark.parametrize("max_cpu_loras", [1, 2, 5])
def test_a_tier_lets_go_of_what_the_other_one_keeps(container: Path, max_cpu_loras: int, tmp_path: Path) -> None:
    worker = Worker(plan(max_cpu_loras))
    jobs = []
    for seed in range(7):
        directory = write_adapter(tmp_path / str(seed), modules=llama_modules(), r=4 + 4 * seed, seed=seed)
        jobs.append(LoraRequest(str(seed), directory, read(directory)))
    for number in (0, 1, 2, 0, 3, 4, 4, 1, 5, 6, 0, 2, 2, 6):
        worker.serve(jobs[number])
        both = {*worker.cpu_tier.keys(), *worker.gpu_tier.keys()}
        assert len(worker.slots.used()) == len(both) <= 2 + max_cpu_loras
    worker.serve(jobs[3])
    with worker.gpu_tier.lease(jobs[3].key) as lease:
        a, _ = worker.slots.at(lease, Q_PROJ)
        assert torch.equal(a[:16], load(jobs[3].directory).modules[Q_PROJ].a)
    for job in jobs:
        worker.drop(job.key)
    assert worker.slots.used() == ()
