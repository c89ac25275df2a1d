"""What SGLang's own loader and memory pool take for an adapter of Llama-3.1-8B, without a GPU: ``--links sglang``.

    python benchmarks/sglang_loads.py

It runs in the environment of SGLang (``make test-engines``). The adapters are in the page cache, and a slot is in
memory as well: of the way into a slot only the milliseconds that do not depend on the bytes say something of a GPU.
"""

import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import linear_regression, median
from types import SimpleNamespace
from typing import Any

from fetching.servers import ROOT

sys.path.insert(0, str(ROOT))

from lora_cli.bench.synthetic_adapters import write_synthetic
from lora_cli.settings import load_settings
from lora_cli.validation import open_base
from tests.making import write_base_config
from tests.real_engines.sglang_server import PYTHON

LLAMA: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
RANKS = (8, 16, 32, 64)
LOADS = 15


def main() -> int:
    """Prints the medians for each rank, and the line through them."""
    if not PYTHON.is_file():
        print(f"SGLang is not installed in {PYTHON.parents[1]}: make test-engines installs it")
        return 0
    if Path(sys.prefix) != PYTHON.parents[1]:
        return subprocess.run([PYTHON, __file__], check=False).returncode
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as place:
        measure(Path(place))
    return 0


def measure(place: Path) -> None:
    """Loads adapters of each rank; a folder gets the files."""
    from sglang.srt.lora.lora_registry import LoRARef

    write_base_config(place / "base", num_key_value_heads=8, torch_dtype="bfloat16", **LLAMA)
    manager, base = _manager(place / "base"), open_base(str(place / "base"), load_settings({}, {}))
    pool = _pool(manager)
    points: list[tuple[int, float, float]] = []
    for rank in RANKS:
        folder = place / str(rank)
        write_synthetic(folder, base, rank, "adapter", 0)
        size = (folder / "adapter_model.safetensors").stat().st_size
        times: list[tuple[float, float]] = []
        for number in range(LOADS):
            ref = LoRARef(lora_id=f"{rank}-{number}", lora_name=f"{rank}-{number}", lora_path=str(folder), pinned=False)
            began = time.perf_counter()
            answer = manager.load_lora_adapter(ref)
            loaded = time.perf_counter()
            assert answer.success, answer.error_message
            adapter = manager.loras.pop(ref.lora_id)
            pool.load_lora_weight_to_buffer(ref.lora_id, number % 2, adapter, _modules(), None, None)
            times.append((1e3 * (loaded - began), 1e3 * (time.perf_counter() - loaded)))
            del manager.lora_refs[ref.lora_id]
        from_disk, into_slot = (median(column) for column in zip(*times, strict=True))
        points.append((size, from_disk, into_slot))
        print(f"rank {rank:2}, {size >> 20:3} MiB: {from_disk:6.1f} ms from disk, {into_slot:6.1f} ms into a slot")
    sizes, *columns = zip(*points, strict=True)
    for what, column in zip(("from disk", "into a slot"), columns, strict=True):
        slope, ms = linear_regression(sizes, column)
        print(f"{what}: {ms:.1f} ms and {1e-6 / slope:.1f} GB/s")


def _modules() -> list[dict[str, Any]]:
    """The modules of each layer, as the pool asks them: at one GPU they take all of a factor."""
    whole = SimpleNamespace(slice_lora_a_weights=lambda factor: factor, slice_lora_b_weights=lambda factor: factor)
    names = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    return [{f"model.layers.{layer}.{name}": whole for name in names} for layer in range(32)]


def _manager(base: Path) -> Any:
    """SGLang's manager of adapters for that base, which has no weights."""
    from sglang.srt.runtime_context import SpawnRanks, publish
    from sglang.srt.server_args import prepare_server_args

    from tests.real_engines.sglang_scheduler import manager_without_model

    flags = ["--model-path", str(base), "--device", "cpu", "--skip-tokenizer-init", "--enable-lora"]
    flags += ["--max-lora-rank", str(max(RANKS)), "--lora-target-modules", "all", "--max-loras-per-batch", "2"]
    publish(prepare_server_args(flags), role="scheduler", ranks=SpawnRanks(world_rank=0, gpu_id=0))
    return manager_without_model()


def _pool(manager: Any) -> Any:
    import torch
    from sglang.srt.lora.mem_pool import LoRAMemoryPool

    base = torch.nn.Module()
    base.weight, base.config = torch.nn.Parameter(torch.zeros(1)), manager.base_hf_config
    modules = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    return LoRAMemoryPool(manager.base_hf_config, 2, torch.bfloat16, max(RANKS), modules, base, "lru", 0)


if __name__ == "__main__":
    sys.exit(main())
