"""The warm process reads packed weights where they are sound, else the same bits from the snapshot."""

import os
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_bytes

from lora_cli.runtime.adapter_weights import LoraWeights, read_weights
from lora_cli.runtime.composable import scalings
from lora_cli.runtime.host_weights import pack, packed_infos
from lora_cli.runtime.messages import LoraRequest
from lora_cli.runtime.plan import Plan, TierLimits
from lora_cli.runtime.worker import Worker
from lora_cli.store import Store
from lora_cli.store.packed_weights import packed_file
from tests.making import llama_modules, write_adapter
from tests.runtime.reading import LLAMA, read
from tests.store.keeping import edit_in_place, put_snapshot

Make = Callable[..., LoraRequest]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def make(store: Store, tmp_path: Path) -> Make:
    def kept(**making: object) -> LoraRequest:
        folder = write_adapter(tmp_path / "made", **{"modules": llama_modules(), **making})  # type: ignore[arg-type]
        snapshot = put_snapshot(store, {path.name: path.read_bytes() for path in folder.iterdir()}, f"file://{folder}")
        return LoraRequest("one", snapshot.directory, read(snapshot.directory), snapshot.digest)

    return kept


def worker(store: Store) -> Worker:
    plan = Plan(LLAMA, tuple(LLAMA.modules), TierLimits(1, 1, 8), device="cpu", cache_dir=store.root)
    return Worker(plan)


def held(process: Worker, job: LoraRequest) -> torch.Tensor:
    """All that lies in the adapter's place in memory."""
    with process.cpu_tier.lease(job.key) as place:
        host_slots = process.host_slots
        return torch.cat([factor.flatten() for path in host_slots.stacks for factor in host_slots.at(place, path)])


def same(one: LoraWeights, other: LoraWeights) -> bool:
    """Bit for bit, in the same order of modules."""
    return list(one.modules) == list(other.modules) and all(
        (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(a.view(torch.uint8), b.view(torch.uint8))
        for path in one.modules
        for a, b in (
            (one.modules[path].a, other.modules[path].a),
            (one.modules[path].b.contiguous(), other.modules[path].b.contiguous()),
        )
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_packed_weights_are_the_snapshots_to_the_bit(dtype: str, make: Make, store: Store) -> None:
    job = make(dtype=dtype, r=3)
    scaling = scalings(job.adapter, LLAMA)
    from_snapshot = read_weights(job.directory, job.adapter, scaling)
    assert packed_infos(store, job.digest, job.adapter, scaling) is None
    pack(store, job.digest, job.adapter, from_snapshot)
    places = packed_infos(store, job.digest, job.adapter, scaling)
    assert places is not None
    packed = read_weights(packed_file(store, job.digest).parent, job.adapter, scaling, places)
    assert same(packed, from_snapshot)


def test_what_is_proved_is_packed_and_the_next_process_reads_that(make: Make, store: Store) -> None:
    job = make()
    first = worker(store)
    report = first.load(job)
    assert (report.error, list(report.stage_ms)) == ("", ["read", "slot", "proof"])
    assert packed_file(store, job.digest).is_file()
    before = held(first, job)
    (job.directory / "adapter_model.safetensors").unlink()  # nobody misses it
    second = worker(store)
    assert second.load(job).error == ""
    assert torch.equal(held(second, job), before)


def test_what_is_served_is_packed_after_it_was(make: Make, store: Store) -> None:
    job = make()
    process = worker(store)
    assert process.serve(job).tier == "disk"
    assert packed_file(store, job.digest).is_file()


@pytest.mark.parametrize("how", ["truncated", "edited", "of another adapter", "gone"])
def test_what_is_wrong_is_never_served_and_is_made_anew(how: str, make: Make, store: Store) -> None:
    job = make()
    first = worker(store)
    assert first.load(job).error == ""
    path = packed_file(store, job.digest)
    sound = load_bytes(path.read_bytes())
    size = path.stat().st_size
    path.chmod(0o644)
    if how == "truncated":
        os.truncate(path, size // 2)
    elif how == "edited":
        edit_in_place(path, size - 300)
    elif how == "gone":
        path.unlink()
    else:
        other = make(seed=5)
        assert worker(store).load(other).error == ""
        packed_file(store, other.digest).rename(path)
    second = worker(store)
    assert second.load(job).error == ""
    assert torch.equal(held(second, job), held(first, job))
    anew = load_bytes(path.read_bytes())
    assert anew.keys() == sound.keys()
    assert all(torch.equal(tensor, sound[name]) for name, tensor in anew.items())


def test_what_fails_its_proof_is_not_packed(make: Make, store: Store) -> None:
    job = make(tensors={f"base_model.model.{path}.lora_B.weight": np.zeros((d_out, 4), np.float32)
                        for path, (_, d_out) in llama_modules().items()})  # fmt: skip
    assert worker(store).load(job).proof is not None
    assert not packed_file(store, job.digest).exists()


def test_a_disk_that_takes_no_more_leaves_nothing_packed_and_nothing_raised(make: Make, store: Store) -> None:
    job = make()
    scaling = scalings(job.adapter, LLAMA)
    weights = read_weights(job.directory, job.adapter, scaling)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        pack(store, job.digest, job.adapter, weights)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not packed_file(store, job.digest).parent.exists()
    assert not list(store.partials.glob("*"))
    pack(store, job.digest, job.adapter, weights)
    assert packed_file(store, job.digest).is_file()
