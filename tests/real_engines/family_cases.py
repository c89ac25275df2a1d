"""A few adapters for a base of any family: what PEFT writes for its attention, its MLP, its embedding, and so on."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_cli.base.families import base_from_config
from lora_cli.engines.name_resolution import LAYER
from tests.corpus.bases import Base
from tests.corpus.breaks import names
from tests.corpus.peft_judge import write_adapter
from tests.real_engines.cases import MAX_LORA_RANK, Case

PLAIN = {"r": 8, "lora_alpha": 12}
TOWERS = r".*(vision|visual|projector).*"
ROUTERS = r".*\.router"
"""PEFT cannot put LoRA on Llama 4's, which answers with two tensors."""
WRAPPED, WRAPPER = "base_model.model.model.language_model.", "base_model.model.model."


def parts_of(base: Base) -> dict[str, list[str]]:
    """What PEFT's ``target_modules`` is for the attention, the MLP, the embedding and the head of a base's text."""
    found: dict[str, set[str]] = {part: set() for part in ("attention", "MLP", "embedding", "head")}
    for path, module in base_from_config(base.config, base.family).modules.items():
        layer = LAYER.search(path) or LAYER.search(path.replace("encoder.layer.", "layers."))
        if any(other in path for other in ("vision", "visual", "projector", "router")):
            continue
        if layer is None:
            found["embedding" if module.kind == "embedding" else "head"].add(path.rpartition(".")[2])
        elif module.kind != "embedding":
            within = layer.string[layer.end() :]
            found["attention" if "atten" in within or "attn" in within else "MLP"].add(within)
    return {part: sorted(paths) for part, paths in found.items()}


def changes(base: Base) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each feature that the base has a place for, with PEFT's options."""
    parts = parts_of(base)
    attention = {"target_modules": parts["attention"]}
    for part in ("attention", "MLP"):
        if parts[part]:
            yield part, {"target_modules": parts[part]}
    yield "all-linear", {"target_modules": "all-linear"}
    yield "embedding", {"target_modules": [name for name in parts["embedding"] if "pos" not in name and name != "wpe"]}
    yield "head", {"target_modules": parts["head"]}
    yield "rsLoRA", {**attention, "use_rslora": True}
    yield "rank above the maximum", {**attention, "r": 2 * MAX_LORA_RANK}
    yield "rank pattern", {**attention, "rank_pattern": {r".*\.0\..*": 2}}


def renamed(name: str) -> str:
    """The name inside of a wrapper, or without the one that it is in."""
    if WRAPPED in name:
        return name.replace(WRAPPED, WRAPPER)
    return name.replace("base_model.model.", "base_model.model.language_model.", 1)


def features(base: Base, folder: Path) -> dict[str, Case]:
    """The features that the base has a place for, each on disk.

    Llama 4's wrapper, in transformers, has no answer to a prompt without an image: nothing is intended there.
    """
    made = {}
    for feature, options in changes(base):
        excluded = [TOWERS] if "vision_config" in base.fields else []
        excluded += [ROUTERS] if base.family.startswith("llama4") else []
        kept: Mapping[str, Any] = {"exclude_modules": "|".join(excluded)} if excluded else {}
        directory = folder / feature
        intended = None
        with contextlib.suppress(*[AttributeError] * (base.family == "llama4")):
            intended = write_adapter(base, {**PLAIN, **kept, **options}, directory)
        made[feature] = Case(base, feature, directory, intended)
    plain, moved = made["attention"], folder / "a wrapper's names"
    shutil.copytree(plain.directory, moved)
    names(renamed)(moved)
    made["a wrapper's names"] = replace(plain, name="a wrapper's names", directory=moved)
    return made
