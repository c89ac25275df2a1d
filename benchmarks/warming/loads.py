"""Loading an adapter of 84 MB from the page cache into a slot, beside one plain read and beside what others do."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.reading import read_adapter
from lora_cli.base.base_model import BaseModel, BaseModule
from lora_cli.sources.files import files_at
from lora_cli.warm.plan import LoraRequest, Plan
from lora_cli.warm.weights import load_adapter
from lora_cli.warm.worker import Worker

from .pairs import Goal, Work, line, ratio, rounds

LAYERS, HIDDEN, KV, INTERMEDIATE, RANK = 32, 4096, 1024, 14336, 16
LLAMA_3_8B = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, KV),
    "self_attn.v_proj": (HIDDEN, KV),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (HIDDEN, INTERMEDIATE),
    "mlp.up_proj": (HIDDEN, INTERMEDIATE),
    "mlp.down_proj": (INTERMEDIATE, HIDDEN),
}
"""The modules of a layer: d_in and d_out."""

MODULES = {
    f"model.layers.{layer}.{name}": BaseModule(d_in, d_out)
    for layer in range(LAYERS)
    for name, (d_in, d_out) in LLAMA_3_8B.items()
}
BASE = BaseModel("Llama-3-8B's shape", "llama", MODULES, LAYERS, 4096)


def write_llama(directory: Path, seed: int) -> None:
    """An adapter of 84 MB: bfloat16, on all linear modules of a model of Llama-3-8B's shape."""
    random = np.random.default_rng(seed)
    header, parts, at = {}, [], 0
    for layer in range(LAYERS):
        for name, (d_in, d_out) in LLAMA_3_8B.items():
            for factor, shape in (("lora_A", (RANK, d_in)), ("lora_B", (d_out, RANK))):
                values = random.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
                data = (values.view("<u4") >> 16).astype("<u2").tobytes()
                key = f"base_model.model.model.layers.{layer}.{name}.{factor}.weight"
                header[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + len(data)]}
                parts.append(data)
                at += len(data)
    text = json.dumps(header).encode()
    directory.mkdir()
    (directory / "adapter_model.safetensors").write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *parts]))
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK}
    targets = [name.partition(".")[2] for name in LLAMA_3_8B]
    (directory / "adapter_config.json").write_text(json.dumps({**config, "target_modules": targets}))


class Loads:
    """The adapter on disk, and the same in memory in bfloat16, for copies."""

    def __init__(self, folder: Path) -> None:
        write_llama(folder / "large", 0)
        self.directory = folder / "large"
        self.adapter = _read(self.directory)
        self.held = load_adapter(self.directory, self.adapter, BASE, torch.bfloat16, full_model=False)
        self.file = self.directory / "adapter_model.safetensors"
        self.buffer = memoryview(bytearray(self.file.stat().st_size))

    def work(self) -> dict[str, Work]:
        """Each way to load it."""
        return {
            "one plain read": self._plain,
            "ours": self._ours,
            "load_file + copies": self._load_file,
            "per tensor, as vLLM": self._per_tensor,
        }

    def _plain(self) -> None:
        with self.file.open("rb", buffering=0) as file:
            rest = self.buffer
            while rest:
                rest = rest[file.readinto(rest) :]

    def _ours(self) -> None:
        load_adapter(self.directory, self.adapter, BASE, torch.bfloat16, full_model=False)

    def _load_file(self) -> None:
        tensors = load_file(self.file)
        for path in MODULES:
            a, b = self.held.modules[path].a, self.held.modules[path].b
            a.copy_(tensors[f"base_model.model.{path}.lora_A.weight"])
            b.copy_(tensors[f"base_model.model.{path}.lora_B.weight"])

    def _per_tensor(self) -> None:
        with safe_open(self.file, "pt") as file:
            for path in MODULES:
                a, b = self.held.modules[path].a, self.held.modules[path].b
                a.copy_(file.get_tensor(f"base_model.model.{path}.lora_A.weight").to(torch.bfloat16))
                scaled = file.get_tensor(f"base_model.model.{path}.lora_B.weight").to(torch.bfloat16) * 2.0
                b.copy_(scaled)


class Skeleton(torch.nn.Module):
    """Llama-3-8B's modules with weights that take no memory, for PEFT to put adapters on."""

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"model_type": "skeleton"}
        for path, module in MODULES.items():
            parent: torch.nn.Module = self
            *above, leaf = path.split(".")
            for name in above:
                if not hasattr(parent, name):
                    parent.add_module(name, torch.nn.Module())
                parent = getattr(parent, name)
            parent.add_module(leaf, _weightless(module))


def _weightless(module: BaseModule) -> torch.nn.Linear:
    linear = torch.nn.Linear(1, 1, bias=False)
    linear.in_features, linear.out_features = module.d_in, module.d_out
    weight = torch.zeros(1, dtype=torch.bfloat16).expand(module.d_out, module.d_in)
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    return linear


def peft_load(directory: Path) -> tuple[Work, Work]:
    """PEFT's load_adapter, and what undoes it."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=1, target_modules=[name.partition(".")[2] for name in LLAMA_3_8B])
    model: Any = get_peft_model(Skeleton(), config)

    def forget() -> None:
        if "one" in model.peft_config:
            model.delete_adapter("one")

    return lambda: model.load_adapter(directory, "one"), forget


def lines(folder: Path, count: int) -> Iterator[str]:
    """Every row of the loads' table, as it is measured."""
    loads = Loads(folder)
    took = rounds(loads.work(), count)
    speed = {name: [1 / seconds for seconds in each] for name, each in took.items()}
    ms = {name: sorted(1e3 * seconds for seconds in each) for name, each in took.items()}
    yield f"{loads.file.stat().st_size / 1e6:.1f} MB, all of it in the page cache; ms: " + ", ".join(
        f"{name} {each[count // 2]:.1f}" for name, each in ms.items()
    )
    one = ms["ours"]
    yield line("load -> slot, checked, ms", "", (one[count // 2], one[0], one[-1]), None)
    for peer in ("one plain read", "load_file + copies", "per tensor, as vLLM"):
        yield line("load -> slot, times faster", peer, ratio(speed, "ours", peer), None)
    load, forget = peft_load(loads.directory)
    took = rounds({"ours": loads.work()["ours"], "PEFT": load}, max(3, count // 3), forget)
    speed = {name: [1 / seconds for seconds in each] for name, each in took.items()}
    found = ratio(speed, "ours", "PEFT")
    yield line("load -> slot, times faster", "PEFT load_adapter", found, Goal(20, speed=True))
    yield from _hits(loads, folder, count)


def _hits(loads: Loads, folder: Path, count: int) -> Iterator[str]:
    """What a request waits for an adapter that is in memory and in no slot, in the warm process's own worker."""
    write_llama(folder / "other", 1)
    jobs = [LoraRequest(path.name, path, _read(path), path.name) for path in (loads.directory, folder / "other")]
    worker = Worker(Plan(BASE, 1, 2, device="cpu"))
    ms = []
    for number in range(2 * count + 2):
        job = jobs[number % 2]
        tier, began = worker.tier_of(job), time.perf_counter()
        with worker.lease(job):
            if tier == "cpu":
                ms.append(1e3 * (time.perf_counter() - began))
    ms.sort()
    yield line("hit in memory -> slot, ms", "", (ms[len(ms) // 2], ms[0], ms[-1]), Goal(2))


def _read(directory: Path) -> Adapter:
    return read_adapter(files_at(directory), directory.name)
