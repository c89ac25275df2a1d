"""The forward of a batch with one adapter on a real model, beside the base alone and beside PEFT."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lora_cli.adapter.reading import read_adapter
from lora_cli.base.base_model import BaseModel
from lora_cli.base.reading import read_base
from lora_cli.sources.files import files_at
from lora_cli.warm.composed import ComposedModel, Slot, load_model
from lora_cli.warm.weights import load_adapter

from .pairs import Goal, Work, line, ratio, rounds

ROWS, RANK = 8, 16
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PREFILL_TOKENS = 64
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

PREFILL: Mapping[str, Mapping[str, Goal | None]] = {
    "base alone": {"fp32": Goal(1.25, 1.15), "bf16": Goal(1.35, 1.20)},
    "PEFT": {"fp32": Goal(1.0), "bf16": Goal(1.0)},
}
DECODE: Mapping[str, Mapping[str, Goal | None]] = {
    "PEFT": {"fp32": Goal(1.0), "bf16": Goal(1.0)},
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


class Batch:
    """Eight rows with one adapter, as each side runs them."""

    def __init__(self, directory: Path, adapter: Path, dtype: torch.dtype) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base, read = base_of(directory), read_adapter(files_at(adapter), adapter.name)
        self.composed = ComposedModel(load_model(directory, dtype=dtype, device="cpu"), base.modules)
        self.slot = Slot(load_adapter(adapter, read, base, dtype, full_model=False), {})
        plain: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
        self.peft = PeftModel.from_pretrained(plain, adapter).eval()
        self.base = load_model(directory, dtype=dtype, device="cpu")
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(1000, (ROWS, PREFILL_TOKENS), generator=generator)

    def work(self, ids: torch.Tensor, caches: Mapping[str, Any] | None = None) -> dict[str, Work]:
        """One forward of ``ids`` by each side, over its own key-value cache when there is one."""

        def side(name: str, model: Any) -> Work:
            cache = {"use_cache": False} if caches is None else {"past_key_values": caches[name], "use_cache": True}
            return lambda: model(input_ids=ids, **cache)

        def using(name: str, slot: Slot | None) -> Work:
            run = side(name, self.composed.model)

            def within() -> None:
                with self.composed.using(slot):
                    run()

            return within

        return {
            "base alone": side("base alone", self.base),
            "ours": using("ours", self.slot),
            "without an adapter": using("without an adapter", None),
            "PEFT": side("PEFT", self.peft),
        }

    def cache(self, ids: torch.Tensor) -> Any:
        """A key-value cache with ``ids`` in it."""
        with torch.inference_mode():
            return self.base(input_ids=ids, use_cache=True).past_key_values


def farthest(batch: Batch) -> float:
    """How far our logits are from PEFT's, of the largest."""
    with torch.inference_mode():
        mine = batch.composed.logits(batch.ids, batch.slot)
        theirs = batch.peft(input_ids=batch.ids, use_cache=False).logits.float()
    return float((mine - theirs).abs().max() / theirs.abs().max())


def lines(directory: Path, folder: Path, count: int) -> Iterator[str]:
    """Every row of the forward's table, as it is measured."""
    hush()
    (large,) = write_adapters(directory, folder / "all-linear", [RANK], ALL_LINEAR)
    (few,) = write_adapters(directory, folder / "qv", [8], ["q_proj", "v_proj"])
    for dtype, torch_dtype in DTYPES.items():
        batch = Batch(directory, large, torch_dtype)
        yield f"{dtype}: our logits are {farthest(batch):.1e} of max |logit| from PEFT's"
        took = timed(batch.work(batch.ids), count)
        for beside, goal in PREFILL.items():
            yield line(f"prefill, all-linear, {dtype}", beside, ratio(took, "ours", beside), goal[dtype])
        found = ratio(took, "without an adapter", "base alone")
        yield line(f"prefill, without an adapter, {dtype}", "base alone", found, NONE)
        yield from _decode(batch, dtype, 2 * count)
        batch = Batch(directory, few, torch_dtype)
        took = timed(batch.work(batch.ids), count)
        yield line(f"prefill, q/v r=8, {dtype}", "base alone", ratio(took, "ours", "base alone"), FEW)


def _decode(batch: Batch, dtype: str, count: int) -> Iterator[str]:
    caches = {name: batch.cache(batch.ids) for name in batch.work(batch.ids)}

    def forget() -> None:
        for cache in caches.values():
            if cache.get_seq_length() > PREFILL_TOKENS:
                cache.crop(-1)

    took = timed(batch.work(batch.ids[:, :1], caches), count, forget)
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
