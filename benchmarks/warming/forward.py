"""The forward of a mixed batch on a real model, beside the base alone and beside PEFT's two ways to serve it."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lora_cli.adapter.reading import read_adapter
from lora_cli.base.base_model import BaseModel
from lora_cli.base.reading import read_base
from lora_cli.runtime.adapter_loader import load_into
from lora_cli.runtime.composable import scalings
from lora_cli.runtime.lora_slots import Slots
from lora_cli.runtime.transformers_model import ComposedModel, load_model
from lora_cli.sources.files import files_at

from .pairs import Goal, Work, line, ratio, rounds

RANKS = (4, 4, 8, 8, 16, 16, 32, 64)
"""Of the eight adapters of the batch, one for each request."""

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PREFILL_TOKENS = 64
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

PREFILL: Mapping[str, Mapping[str, Goal | None]] = {
    "base alone": {"fp32": Goal(1.25, 1.15), "bf16": Goal(1.35, 1.20)},
    "PEFT mixed batch": {"fp32": Goal(0.90, 0.80), "bf16": Goal(0.42, 0.36)},
}
DECODE: Mapping[str, Mapping[str, Goal | None]] = {
    "PEFT mixed batch": {"fp32": Goal(0.60, 0.50), "bf16": Goal(0.50, 0.33)},
    "PEFT set_adapter, one by one": {"fp32": Goal(0.20), "bf16": Goal(0.20)},
    "base alone": {"fp32": None, "bf16": None},
}
FEW = Goal(1.10, 1.03)
NONE = Goal(1.03)


def write_adapters(directory: Path, folder: Path, ranks: Sequence[int], targets: Sequence[str]) -> list[Path]:
    """Adapters as PEFT saves them, with random factors in both A and B."""
    base = base_of(directory)
    paths = [path for path in base.modules if path.rpartition(".")[2] in targets]
    made = []
    for number, rank in enumerate(ranks):
        generator = torch.Generator().manual_seed(number)
        tensors = {}
        for path in paths:
            module, name = base.modules[path], f"base_model.model.{path}.lora"
            tensors[f"{name}_A.weight"] = torch.randn(rank, module.d_in, generator=generator) * module.d_in**-0.5
            tensors[f"{name}_B.weight"] = torch.randn(module.d_out, rank, generator=generator) * 0.02
        made.append(folder / f"a{number}")
        made[-1].mkdir(parents=True)
        save_file(tensors, made[-1] / "adapter_model.safetensors", {"format": "pt"})
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank}
        config |= {"target_modules": list(targets), "base_model_name_or_path": str(directory)}
        (made[-1] / "adapter_config.json").write_text(json.dumps(config))
    return made


def base_of(directory: Path) -> BaseModel:
    """The shapes of the model in a directory."""
    return read_base(files_at(directory), "model")


def ours(directory: Path, adapters: Sequence[Path], dtype: torch.dtype) -> tuple[ComposedModel, list[int]]:
    """Our model with the adapters in its slots, and the slot of each."""
    base = base_of(directory)
    read = [read_adapter(files_at(path), path.name) for path in adapters]
    modules = {path: base.modules[path] for path in base.modules if any(path in one.pairs for one in read)}
    slots = Slots(modules, len(read), max(RANKS), dtype=dtype)
    taken = [load_into(slots, path, one, scalings(one, base)) for path, one in zip(adapters, read, strict=True)]
    return ComposedModel(load_model(directory, dtype=dtype, device="cpu"), slots), taken


def peft(directory: Path, adapters: Sequence[Path], dtype: torch.dtype) -> Any:
    """PEFT's model with the same adapters as it loads them: it keeps those of a bfloat16 model in float32."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    for number, path in enumerate(adapters):
        if number:
            model.load_adapter(path, path.name)
        else:
            model = PeftModel.from_pretrained(model, path, adapter_name=path.name)
    return model.eval()


class Batch:
    """Eight requests over eight adapters, as each side runs them."""

    def __init__(self, directory: Path, adapters: Sequence[Path], dtype: torch.dtype) -> None:
        self.composed, taken = ours(directory, adapters, dtype)
        self.peft = peft(directory, adapters, dtype)
        self.base = load_model(directory, dtype=dtype, device="cpu")
        self.slots = sorted(taken)
        self.names = [adapters[taken.index(slot)].name for slot in self.slots]
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(1000, (len(taken), PREFILL_TOKENS), generator=generator)

    def work(self, ids: torch.Tensor, caches: Mapping[str, Any] | None = None) -> dict[str, Work]:
        """One forward of ``ids`` by each side, over its own key-value cache when there is one."""

        def side(name: str, model: Any, **more: Any) -> Callable[[], Any]:
            cache = {"use_cache": False} if caches is None else {"past_key_values": caches[name], "use_cache": True}
            return lambda: model(input_ids=ids, **cache, **more)

        return {
            "base alone": side("base alone", self.base),
            "ours": self._with_rows(side("ours", self.composed.model), self.slots),
            "rows without LoRA": self._with_rows(side("rows without LoRA", self.composed.model), [0] * len(ids)),
            "PEFT mixed batch": side("PEFT mixed batch", self.peft, adapter_names=self.names),
        }

    def one_by_one(self, ids: torch.Tensor, caches: Sequence[Any]) -> Work:
        """PEFT's set_adapter before each request's own forward."""

        def run() -> None:
            for row, name in enumerate(self.names):
                self.peft.set_adapter(name)
                self.peft(input_ids=ids[row : row + 1], past_key_values=caches[row], use_cache=True)

        return run

    def cache(self, ids: torch.Tensor) -> Any:
        """A key-value cache with ``ids`` in it."""
        with torch.inference_mode():
            return self.base(input_ids=ids, use_cache=True).past_key_values

    def _with_rows(self, run: Work, rows: Sequence[int]) -> Work:
        def within() -> None:
            with self.composed.with_slots(rows):
                run()

        return within


def farthest(batch: Batch) -> float:
    """How far our logits of the mixed batch are from PEFT's, of the largest."""
    with torch.inference_mode():
        mine = batch.composed.logits(batch.ids, batch.slots)
        theirs = batch.peft(input_ids=batch.ids, adapter_names=batch.names, use_cache=False).logits.float()
    return float((mine - theirs).abs().max() / theirs.abs().max())


def lines(directory: Path, folder: Path, count: int) -> Iterator[str]:
    """Every row of the forward's table, as it is measured."""
    hush()
    mixed = write_adapters(directory, folder / "all-linear", RANKS, ALL_LINEAR)
    few = write_adapters(directory, folder / "qv", [8] * len(RANKS), ["q_proj", "v_proj"])
    for dtype, torch_dtype in DTYPES.items():
        batch = Batch(directory, mixed, torch_dtype)
        yield f"{dtype}: our logits of the mixed batch are {farthest(batch):.1e} of max |logit| from PEFT's"
        yield from _prefill(batch, dtype, count)
        yield from _decode(batch, dtype, 2 * count)
        del batch
        batch = Batch(directory, few, torch_dtype)
        took = timed(batch.work(batch.ids), count)
        yield line(f"prefill, q/v r=8, {dtype}", "base alone", ratio(took, "ours", "base alone"), FEW)
        del batch


def _prefill(batch: Batch, dtype: str, count: int) -> Iterator[str]:
    took = timed(batch.work(batch.ids), count)
    for beside, goal in PREFILL.items():
        yield line(f"prefill, all-linear, {dtype}", beside, ratio(took, "ours", beside), goal[dtype])
    yield line(
        f"prefill, rows without LoRA, {dtype}", "base alone", ratio(took, "rows without LoRA", "base alone"), NONE
    )


def _decode(batch: Batch, dtype: str, count: int) -> Iterator[str]:
    caches = {name: batch.cache(batch.ids) for name in batch.work(batch.ids)}
    rows = [batch.cache(batch.ids[row : row + 1]) for row in range(len(batch.ids))]
    work = batch.work(batch.ids[:, :1], caches)
    work["PEFT set_adapter, one by one"] = batch.one_by_one(batch.ids[:, :1], rows)

    def forget() -> None:
        for cache in (*caches.values(), *rows):
            if cache.get_seq_length() > PREFILL_TOKENS:
                cache.crop(-1)

    took = timed(work, count, forget)
    for beside, goal in DECODE.items():
        yield line(f"decode, all-linear, {dtype}", beside, ratio(took, "ours", beside), goal[dtype])


def timed(work: Mapping[str, Work], count: int, reset: Work = lambda: None) -> dict[str, list[float]]:
    """As ``rounds``, without gradients."""
    with torch.inference_mode():
        return rounds(work, count, reset)


def hush() -> None:
    """Keep transformers' bars and warnings out of the table."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
