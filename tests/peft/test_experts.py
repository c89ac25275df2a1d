"""Adapters of transformers 4, on experts one by one, over models with fused experts: as the real PEFT has them."""

import json
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_cli.adapter.adapter import PEFT_PREFIX, last_name, parse_key
from lora_cli.adapter.reading import read_adapter
from lora_cli.base.base_model import BaseModel
from lora_cli.base.families import FAMILIES as BASES
from lora_cli.base.families import base_from_config
from lora_cli.base.reading import read_checkpoint
from lora_cli.finding import Applied, Severity
from lora_cli.judging.judge import judge_one
from lora_cli.judging.read import Terms
from lora_cli.peft.experts import FAMILIES, as_loaded
from lora_cli.peft.targets import scales, targeted_in, wrapped_parameters
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from lora_cli.sources.files import files_at
from tests.base.configs import CONFIGS
from tests.base.oracle import transformers_model
from tests.making import lora_config, raw, write_adapter, write_safetensors
from tests.peft.peft_models import as_base, layers_of, tiny_model

W = ["w1", "w2", "w3"]
GATED = ["gate_proj", "up_proj", "down_proj"]
LINEAR = ["gate", "q_proj", "k_proj", "v_proj", "o_proj"]

LOADED: dict[str, tuple[str, dict[str, Any]]] = {
    "w2 alone": ("mixtral", {"targets": ["w2", "k_proj"]}),
    "a regex": ("mixtral", {"targets": [*W, "q_proj"], "target_modules": r".*\.(q_proj|w1|w2|w3)"}),
    "all-linear": ("mixtral", {"targets": [*W, *LINEAR], "target_modules": "all-linear"}),
    "patterns": ("mixtral", {"targets": W, "rank_pattern": {"w2": 3}, "alpha_pattern": {"down_proj": 5}}),
    "no prefix": ("mixtral", {"targets": [*W, "q_proj"], "prefix": ""}),
    "gated": ("qwen3_moe", {"targets": [*GATED, "gate", "v_proj"], "use_rslora": True}),
    "a regex for gated": ("qwen3_moe", {"targets": GATED, "target_modules": r".*\.(gate|up|down)_proj"}),
}
NOT_LOADED: dict[str, tuple[str, dict[str, Any], str]] = {
    "w1 without w3": ("mixtral", {"targets": ["w1", "w2"]}, "LC311"),
    "the last expert is missing": ("mixtral", {"targets": W, "drop": "experts.3."}, "LC311"),
    "one projection of one expert is missing": ("qwen3_moe", {"targets": GATED, "drop": "experts.2.up_proj"}, "LC311"),
    "another rank than the config's": ("mixtral", {"targets": W, "ranks": {".w1": 8}}, "LC301"),
    "a regex with numbers": ("mixtral", {"targets": W, "target_modules": r".*\.experts\.\d+\.w[123]"}, "LC311"),
    "shared experts": ("deepseek_v3", {"targets": GATED}, "LC307"),
}


def made(family: str) -> Any:
    """A model with random weights."""
    if family in {"mixtral", "qwen3_moe"}:
        return tiny_model(family)
    return transformers_model({"model_type": family, **CONFIGS[family][0]}).to_empty(device="cpu")


def write_old(directory: Path, family: str, targets: list[str], **how: Any) -> None:
    """An adapter as PEFT wrote it over transformers 4, random and not zero, on every module called as ``targets``.

    ``ranks`` are by a part of the module's path, ``drop`` is a part of those left out; the rest is for the config.
    """
    prefix, drop = how.pop("prefix", PEFT_PREFIX), how.pop("drop", "-")
    ranks, random, tensors = how.pop("ranks", {}), np.random.default_rng(0), {}
    # Checkpoints have the names of transformers 4 to this day.
    made(family).save_pretrained(directory / "base")
    for name, tensor in read_checkpoint(files_at(directory / "base")).items():
        module, shape = name.removesuffix(".weight"), tensor.shape
        if len(shape) == 2 and last_name(module) in targets and drop not in module:
            r = next((rank for part, rank in ranks.items() if part in module), 4)
            tensors[f"{prefix}{module}.lora_A.weight"] = raw(random.standard_normal((r, shape[1])) / 100)
            tensors[f"{prefix}{module}.lora_B.weight"] = raw(random.standard_normal((shape[0], r)))
    write_safetensors(directory / "adapter_model.safetensors", tensors)
    config = lora_config([], r=4, lora_alpha=12, target_modules=targets) | how
    (directory / "adapter_config.json").write_text(json.dumps(config))


def load(directory: Path, model: Any) -> tuple[Any, int]:
    """The real PEFT's model with the adapter, and how many elements of the file's B (none is zero) did not arrive."""
    from safetensors.torch import load_file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = import_module("peft").PeftModel.from_pretrained(model, directory)
    file = load_file(directory / "adapter_model.safetensors")
    held, arrived = (
        sum(int((tensor != 0).sum()) for name, tensor in tensors.items() if ".lora_B." in name)
        for tensors in (file, loaded.state_dict())  # stacked, zeros stand between them
    )
    return loaded, held - arrived


def judged(directory: Path, base: BaseModel) -> tuple[set[str], Applied | None]:
    """The codes of the errors, and how many modules apply."""
    verdict = judge_one(Request("", str(directory)), Terms(Settings(cache_dir=directory / "cache"), base))
    return {found.code for found in verdict.findings if found.severity is Severity.ERROR}, verdict.applied


@pytest.mark.parametrize(("family", "how"), LOADED.values(), ids=LOADED)
def test_what_peft_loads_has_pefts_targets_ranks_scalings_and_shapes(
    family: str, how: dict[str, Any], tmp_path: Path
) -> None:
    write_old(tmp_path, family, **how)
    model = tiny_model(family)
    base = as_base(model)
    model, lost = load(tmp_path, model)
    layers, live = layers_of(model), dict(model.base_model.model.named_modules())
    loaded, *problems = as_loaded(read_adapter(files_at(tmp_path), "old"), base)
    config, pairs = loaded.config, loaded.pairs
    assert config is not None
    assert (lost, problems) == (0, [None])
    wrapped = wrapped_parameters(config, base.parameters)
    assert targeted_in(config, base) == {path for path, layer in layers.items() if not layer.parameter}
    assert wrapped.keys() == {path for path, layer in layers.items() if layer.parameter}
    for path, layer in layers.items():
        (scale,) = scales(config, [wrapped.get(path, path)]).values()
        assert (scale.r, scale.lora_alpha, scale.scaling) == (layer.r, layer.lora_alpha, layer.scaling)
    for path, pair in pairs.items():
        theirs = [tuple(factors["default"].weight.shape) for factors in (live[path].lora_A, live[path].lora_B)]
        assert [one.shape for one in pair.factors] == theirs
    codes = {"LC315"} if set(layers) - set(pairs) else set()
    assert judged(tmp_path, base) == (codes, Applied(len(pairs), len(pairs)))


@pytest.mark.parametrize(("family", "how", "code"), NOT_LOADED.values(), ids=NOT_LOADED)
def test_what_peft_refuses_or_drops_is_found(family: str, how: dict[str, Any], code: str, tmp_path: Path) -> None:
    model = made(family)
    write_old(tmp_path, family, **how)
    assert code in judged(tmp_path, as_base(model))[0]
    with suppress(RuntimeError, ValueError):  # refused
        assert load(tmp_path, model)[1] > 0


def test_the_families_and_names_are_pefts() -> None:
    conversion = import_module("peft.utils.transformers_weight_conversion")
    kinds, theirs = conversion._MOE_TARGET_MODULE_MAPPING, conversion._MODEL_TO_CONVERSION_PATTERN
    for family in {*theirs, *FAMILIES, *BASES}:
        assert FAMILIES.get(family) == kinds.get(theirs.get(family))


GEMMA3 = {"model_type": "gemma3", **CONFIGS["gemma3"][0]}
OF_GEMMA3 = ["model.language_model.layers.0.mlp.up_proj", "language_model.model.layers.0.mlp.up_proj", "lm_head"]
OF_GEMMA3 += ("vision_tower.vision_model.encoder.layers.0.mlp.fc1", "multi_modal_projector.linear")


@pytest.mark.parametrize("prefix", [PEFT_PREFIX, ""], ids=["prefix", "none"])
def test_a_factor_of_gemma_3_is_where_peft_looks_for_it(prefix: str, tmp_path: Path) -> None:
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers

    model, base = transformers_model(GEMMA3), base_from_config(GEMMA3, "base")
    others = {f"{prefix}{module}.lora_magnitude_vector": np.zeros(8, np.float32) for module in OF_GEMMA3}
    write_adapter(tmp_path, modules=dict.fromkeys(OF_GEMMA3, (8, 8)), prefix=prefix, tensors=others)
    found = as_loaded(read_adapter(files_at(tmp_path), "old"), base)[0]
    for name, key in found.keys.items():
        (loaded,) = convert_peft_adapter_state_dict_for_transformers(model, LoraConfig(r=1), {name: raw(np.zeros(1))})
        assert key.module == parse_key(loaded).module
        assert key.module in found.pairs
