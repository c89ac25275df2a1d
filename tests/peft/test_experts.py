"""Adapters of transformers 4, on experts one by one, over models with fused experts: as the real PEFT has them."""

import json
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.reading import read_adapter
from lora_cli.base.base_model import BaseModel
from lora_cli.errors import Refused
from lora_cli.finding import Severity
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.judging.result import Result
from lora_cli.peft.experts import MIXTRAL, OLD_NAMES, QWEN2_MOE, as_loaded
from lora_cli.peft.targets import scales, targeted_in, wrapped_parameters
from lora_cli.refs.request import Request
from lora_cli.runtime.composable import scalings
from lora_cli.settings import Settings
from lora_cli.sources.files import files_at
from tests.making import lora_config, raw, write_safetensors
from tests.peft.peft_models import Layer, as_base, layers_of, tiny_model

W = ["w1", "w2", "w3"]
GATED = ["gate_proj", "up_proj", "down_proj"]
Options = dict[str, Any]

LOADED: dict[str, tuple[str, Options]] = {
    "mixtral": ("mixtral", {"targets": [*W, "q_proj"]}),
    "mixtral with the router": ("mixtral", {"targets": [*W, "gate", "o_proj"]}),
    "mixtral w2": ("mixtral", {"targets": ["w2", "k_proj"]}),
    "mixtral rslora": ("mixtral", {"targets": W, "use_rslora": True}),
    "mixtral by longer names": (
        "mixtral",
        {"targets": [*W, "q_proj"], "target_modules": ["q_proj", "experts.0.w1", "mlp.w3", "block_sparse_moe.w2"]},
    ),
    "mixtral by regex": ("mixtral", {"targets": [*W, "q_proj"], "target_modules": r".*\.(q_proj|w1|w2|w3)"}),
    "mixtral all-linear": (
        "mixtral",
        {"targets": [*W, "gate", "q_proj", "k_proj", "v_proj", "o_proj"], "target_modules": "all-linear"},
    ),
    "mixtral with patterns": (
        "mixtral",
        {"targets": [*W, "q_proj"], "rank_pattern": {"q_proj": 2, "w2": 3}, "alpha_pattern": {"down_proj": 5}}
        | {"ranks": {"q_proj": 2}},
    ),
    "mixtral of some layers": ("mixtral", {"targets": ["w2", "q_proj"], "only": {"q_proj": "layers.0."}}
        | {"layers_to_transform": [0]}),
    "mixtral without a prefix": ("mixtral", {"targets": [*W, "q_proj"], "prefix": ""}),
    "qwen3_moe": ("qwen3_moe", {"targets": [*GATED, "v_proj"]}),
    "qwen3_moe with the router": ("qwen3_moe", {"targets": [*GATED, "gate"]}),
    "qwen3_moe rslora": ("qwen3_moe", {"targets": GATED, "use_rslora": True}),
    "qwen3_moe by regex": (
        "qwen3_moe", {"targets": [*GATED, "q_proj"], "target_modules": r".*\.(q|gate|up|down)_proj"}
    ),
    "qwen3_moe one layer by regex is all": (
        "qwen3_moe", {"targets": ["q_proj"], "target_modules": r"model\.layers\.0\.self_attn\.q_proj"}
    ),
}  # fmt: skip


def old_shapes(family: str, directory: Path, base: Options) -> dict[str, tuple[int, int]]:
    """Modules as transformers 4 named them to (d_in, d_out): the names that checkpoints have to this day."""
    safetensors = import_module("safetensors")
    tiny_model(family, **base).save_pretrained(directory)
    with safetensors.safe_open(directory / "model.safetensors", "np") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    return {name.removesuffix(".weight"): (shape[1], shape[0]) for name, shape in shapes.items() if len(shape) == 2}


def write_old(
    directory: Path,
    family: str,
    targets: list[str],
    *,
    drop: Callable[[str], bool] = lambda module: False,
    ranks: Mapping[str, int] | None = None,
    only: Mapping[str, str] | None = None,
    base: Options | None = None,
    prefix: str = "base_model.model.",
    **fields: Any,
) -> None:
    """An adapter as PEFT wrote it over transformers 4, random and not zero, on every module called as ``targets``.

    ``ranks`` and ``only`` (a part of its path) are by a part of the module's path and by its last name.
    """
    random = np.random.default_rng(0)
    tensors = {}
    for module, (d_in, d_out) in old_shapes(family, directory / "base", base or {}).items():
        leaf = module.rpartition(".")[2]
        if leaf in targets and (only or {}).get(leaf, "") in module and not drop(module):
            r = next((rank for part, rank in (ranks or {}).items() if part in module), 4)
            tensors[f"{prefix}{module}.lora_A.weight"] = raw(random.standard_normal((r, d_in)) / 100)
            tensors[f"{prefix}{module}.lora_B.weight"] = raw(random.standard_normal((d_out, r)))
    write_safetensors(directory / "adapter_model.safetensors", tensors)
    config = lora_config([], r=4, lora_alpha=12, target_modules=targets) | fields
    (directory / "adapter_config.json").write_text(json.dumps(config))


def load(directory: Path, model: Any) -> Any:
    """The real PEFT's model with the adapter of ``directory``."""
    peft = import_module("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(model, directory)


def lost(model: Any, directory: Path) -> int:
    """Elements of the file's B (none is zero) that did not arrive in the model; stacked, zeros stand between them."""
    torch, safetensors = import_module("torch"), import_module("safetensors.torch")
    file = safetensors.load_file(directory / "adapter_model.safetensors")
    live = model.state_dict()
    held, arrived = (
        sum(int(torch.count_nonzero(tensor)) for name, tensor in tensors.items() if ".lora_B." in name)
        for tensors in (file, live)
    )
    return held - arrived


def read(directory: Path) -> Adapter:
    return read_adapter(files_at(directory), "old")


def verdict_on(directory: Path, base: BaseModel) -> Result:
    verdict = judge_one(Request("", str(directory)), Terms(base), Settings(cache_dir=directory / "cache"))
    assert verdict.error is None
    return verdict


def errors(verdict: Result) -> set[str]:
    return {found.code for found in verdict.findings if found.severity is Severity.ERROR}


@pytest.mark.parametrize(("family", "options"), LOADED.values(), ids=LOADED)
def test_what_peft_loads_has_pefts_targets_ranks_scalings_and_shapes(
    family: str, options: Options, tmp_path: Path
) -> None:
    write_old(tmp_path, family, **options)
    model = tiny_model(family)
    base = as_base(model)
    model = load(tmp_path, model)
    assert lost(model, tmp_path) == 0
    layers = layers_of(model)
    written = read(tmp_path)
    loaded = as_loaded(written, base)
    assert (loaded.refused, loaded.unfit) == (None, ())
    check_targets(loaded.adapter, base, layers)
    live = dict(model.base_model.model.named_modules())
    for path, pair in loaded.adapter.pairs.items():
        assert pair.a is not None
        assert pair.b is not None
        assert pair.a.shape == tuple(live[path].lora_A["default"].weight.shape)
        assert pair.b.shape == tuple(live[path].lora_B["default"].weight.shape)
    verdict = verdict_on(tmp_path, base)
    missing = {"LC315"} if set(layers) - set(loaded.adapter.pairs) else set()
    assert errors(verdict) == missing
    assert verdict.applied is not None
    assert verdict.applied.matched == verdict.applied.total == len(loaded.adapter.pairs)


def check_targets(adapter: Adapter, base: BaseModel, layers: Mapping[str, Layer]) -> None:
    config = adapter.config
    assert config is not None
    assert targeted_in(config, base) == {path for path, layer in layers.items() if not layer.parameter}
    wrapped = wrapped_parameters(config, base.parameters)
    assert wrapped.keys() == {path for path, layer in layers.items() if layer.parameter}
    for path, layer in layers.items():
        scale = scales(config, [wrapped.get(path, path)])[wrapped.get(path, path)]
        assert (scale.r, scale.lora_alpha, scale.scaling) == (layer.r, layer.lora_alpha, layer.scaling)
        if path in adapter.pairs:
            assert adapter.pairs[path].rank == layer.r * layer.num_experts


NOT_LOADED: dict[str, tuple[str, Options, str]] = {
    "w1 without w3": ("mixtral", {"targets": ["w1", "w2"]}, "LC317"),
    "up without gate": ("qwen3_moe", {"targets": ["up_proj", "down_proj"]}, "LC317"),
    "w1 and w3 without w2": ("mixtral", {"targets": ["w1", "w3"]}, "LC317"),
    "an expert is missing": ("mixtral", {"targets": W, "drop": lambda module: "experts.1." in module}, "LC317"),
    "the last expert is missing": ("mixtral", {"targets": W, "drop": lambda module: "experts.3." in module}, "LC317"),
    "one projection of one expert is missing": (
        "qwen3_moe", {"targets": GATED, "drop": lambda module: module.endswith("experts.2.up_proj")}, "LC317"
    ),
    "w3 is targeted and missing": ("mixtral", {"targets": W, "drop": lambda module: module.endswith(".w3")}, "LC317"),
    "experts of two ranks": ("mixtral", {"targets": W, "ranks": {"experts.0.": 2}}, "LC317"),
    "another rank than the config's": ("mixtral", {"targets": W, "ranks": {".w1": 8}}, "LC301"),
    "dropout": ("mixtral", {"targets": W, "lora_dropout": 0.05}, "LC209"),
    "a bias on lora_B": ("qwen3_moe", {"targets": GATED, "lora_bias": True}, "LC209"),
    "DoRA": ("mixtral", {"targets": W, "use_dora": True}, "LC209"),
    "experts by a regex that numbers them": (
        "mixtral", {"targets": [*W, "q_proj"], "target_modules": r".*\.(q_proj|experts\.\d+\.w[123])"}, "LC312"
    ),
    "dense layers, whose names PEFT takes for the experts'": (
        "qwen3_moe", {"targets": GATED, "base": {"mlp_only_layers": [0]}}, "LC307"
    ),
    "without targets": ("mixtral", {"targets": ["q_proj"], "target_modules": None}, "LC205"),
}  # fmt: skip


@pytest.mark.parametrize(("family", "options", "code"), NOT_LOADED.values(), ids=NOT_LOADED)
def test_what_peft_refuses_or_drops_is_found(family: str, options: Options, code: str, tmp_path: Path) -> None:
    write_old(tmp_path, family, **options)
    model = tiny_model(family, **options.get("base", {}))
    base = as_base(model)
    with suppress(RuntimeError, ValueError):  # refused
        assert lost(load(tmp_path, model), tmp_path) > 0
    assert code in errors(verdict_on(tmp_path, base))


def test_the_runtime_says_that_it_does_not_compose_them(tmp_path: Path) -> None:
    write_old(tmp_path, "mixtral", W)
    with pytest.raises(Refused, match="fused experts"):
        scalings(read(tmp_path), as_base(tiny_model("mixtral")))


def test_a_base_of_another_family_leaves_an_adapter_as_it_is(tmp_path: Path) -> None:
    write_old(tmp_path, "mixtral", W)
    written = read(tmp_path)
    assert as_loaded(written, as_base(tiny_model("llama"))).adapter is written


def test_the_families_and_names_are_pefts() -> None:
    conversion = import_module("peft.utils.transformers_weight_conversion")
    kinds = {"mixtral": MIXTRAL, "qwen2_moe": QWEN2_MOE}
    assert {kind: dict(names) for kind, names in kinds.items()} == conversion._MOE_TARGET_MODULE_MAPPING
    theirs = conversion._MODEL_TO_CONVERSION_PATTERN
    assert dict(OLD_NAMES) == {model_type: kinds[kind] for model_type, kind in theirs.items() if kind in kinds}
    fused = {
        kind: {new: [old for old in names if names[old] == new] for new in ("gate_up_proj",)}
        for kind, names in kinds.items()
    }
    assert fused == conversion._MOE_FUSED_TARGETS
