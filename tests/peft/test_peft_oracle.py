"""Adapters that the real PEFT wrote, over ten families and with every option: our reading equals PEFT's own."""

import ast
import dataclasses
import inspect
import json
import re
import typing
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.config import PEFT_FIELDS, LoraConfig, parse_config
from lora_cli.adapter.names import parse_key
from lora_cli.adapter.reading import read_adapter
from lora_cli.errors import FormatError
from lora_cli.peft.experts import rewrite_config
from lora_cli.peft.targets import DEFAULT_TARGETS, scales, targeted, targeted_in, wrapped_parameters
from lora_cli.sources.files import files_at
from tests.peft.peft_cases import CASES, Case
from tests.peft.peft_models import Written


def read(directory: Path) -> Adapter:
    return read_adapter(files_at(directory), "tiny")


def check_file(adapter: Adapter, case: Case, written: Written) -> LoraConfig:
    """Nothing that PEFT wrote is an error, and every tensor of it is known and paired."""
    assert (adapter.config_error, adapter.weights_error) == (None, None)
    config = adapter.config
    assert config is not None
    assert (config.unknown, config.mistyped, config.duplicates) == ({}, {}, ())
    assert {key.part for key in adapter.keys.values()} == case.parts
    assert all(key.canonical for key in adapter.keys.values())
    assert adapter.pairs.keys() == written.layers.keys()
    assert all(pair.a is not None and pair.b is not None for pair in adapter.pairs.values())
    return rewrite_config(config, written.base)


def check_targets(config: LoraConfig, written: Written) -> dict[str, str]:
    """The targets of ``config`` are the layers that PEFT made; gives the wrappers of parameters."""
    layers = written.layers
    if config.layer_replication:  # its layers are not built again: no engine serves them
        return {}
    assert targeted_in(config, written.base) == {path for path, layer in layers.items() if not layer.parameter}
    wrapped = wrapped_parameters(config, written.base.parameters)
    assert wrapped == {
        path: f"{path.replace('.base_layer', '')}.{layer.parameter}"
        for path, layer in layers.items()
        if layer.parameter
    }
    return wrapped


def check_scales(config: LoraConfig, adapter: Adapter, written: Written, wrapped: Mapping[str, str]) -> None:
    """Rank, alpha and scaling of each layer are PEFT's, and the tensors have that rank for each expert."""
    ours = scales(config, [wrapped.get(path, path) for path in written.layers])
    for path, layer in written.layers.items():
        scale = ours[wrapped.get(path, path)]
        assert (scale.r, scale.lora_alpha, scale.scaling) == (layer.r, layer.lora_alpha, layer.scaling)
        assert adapter.pairs[path].rank == layer.r * layer.num_experts


def check_names_in_the_model(adapter: Adapter, written: Written) -> None:
    """The same tensors as they are named in the model, with and without torch.compile, are the same parts."""
    saved = {(key.module, key.part) for key in adapter.keys.values()}
    for name in written.live_names:
        for spelled in (name, f"_orig_mod.{name}"):
            key = parse_key(spelled)
            assert (key.module, key.part) in saved
            assert key.adapter_name == written.adapter_name or key.part == "variant"


@pytest.mark.parametrize("name", CASES)
def test_what_peft_wrote_is_read_as_peft_meant_it(name: str, peft_wrote: Callable[[str], Written]) -> None:
    case, written = CASES[name], peft_wrote(name)
    adapter = read(written.directory)
    config = check_file(adapter, case, written)
    wrapped = check_targets(config, written)
    check_scales(config, adapter, written, wrapped)
    check_names_in_the_model(adapter, written)
    if case.raw:
        # Not only as saved, with everything resolved, but as a user (or another trainer) writes it.
        raw = rewrite_config(parse_config(json.dumps(written.raw).encode()), written.base)
        assert raw.mistyped == {}
        check_scales(raw, adapter, written, check_targets(raw, written))


def test_our_fields_and_defaults_are_pefts() -> None:
    peft = import_module("peft")
    theirs = {field.name: field for field in dataclasses.fields(peft.LoraConfig)}
    assert sorted(PEFT_FIELDS) == sorted(theirs)
    default, ours = peft.LoraConfig().to_dict(), LoraConfig()
    # Set by PEFT itself, whatever a file says.
    own = {"peft_type", "peft_version", "runtime_config"}
    assert {name: getattr(ours, name) for name in theirs if name not in own} == {
        name: value for name, value in default.items() if name not in own
    }


def test_every_option_of_the_installed_peft_has_a_case() -> None:
    peft = import_module("peft")
    given = {name for case in CASES.values() for name in case.options}
    assert {field.name for field in dataclasses.fields(peft.LoraConfig)} - given == set()
    runtime = {name for case in CASES.values() for name in case.options.get("runtime_config", {})}
    assert {field.name for field in dataclasses.fields(peft.LoraConfig().runtime_config)} == runtime


def test_every_initialisation_of_the_installed_peft_has_a_case() -> None:
    given = {str(case.options.get("init_lora_weights", True)) for case in CASES.values()}
    declared, compared = declared_inits(), compared_inits()
    assert "corda" in declared
    assert "lora_ga" in compared  # which is not declared
    assert {word for word in declared | compared if not any(word in one for one in given)} == set()


def declared_inits() -> set[str]:
    """The words that PEFT's type of ``init_lora_weights`` lists, as far as they are fixed, and the booleans."""
    peft = import_module("peft")
    words = set()
    for one in typing.get_args(typing.get_type_hints(peft.LoraConfig)["init_lora_weights"]):
        words |= {"True", "False"} if one is bool else {word.partition("[")[0] for word in typing.get_args(one)}
    return words


def compared_inits() -> set[str]:
    """The words that PEFT's layers compare ``init_lora_weights`` with, in whatever way."""
    layer = ast.parse(inspect.getsource(import_module("peft.tuners.lora.layer")))
    tests = [node.test for node in ast.walk(layer) if isinstance(node, ast.If)]
    return {
        constant.value
        for test in tests
        if any(isinstance(node, ast.Name) and node.id == "init_lora_weights" for node in ast.walk(test))
        for constant in ast.walk(test)
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str) and constant.value.isidentifier()
    }


def test_our_default_targets_are_pefts() -> None:
    constants = import_module("peft.utils.constants")
    theirs = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    assert {name: list(t) if not isinstance(t, str) else t for name, t in DEFAULT_TARGETS.items()} == theirs


MODULES = (
    *(
        f"model.layers.{i}.{m}"
        for i in (0, 1, 10)
        for m in ("self_attn", "self_attn.q_proj", "mlp.up_proj", "mlp.experts.3.w1")
    ),
    *("model", "model.embed_tokens", "lm_head", "q_proj", "h.1.q_proj", "model.norm", "vision.layers.1.q_proj"),
)
names = st.sampled_from(
    (
        *("q_proj", "up_proj", "w1", "self_attn.q_proj", "layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj"),
        *("experts.3.w1", "lm_head", "model", "proj", "", ".", "1", "h", "layers", r"layers\.1", ".*", "q.proj"),
        *(r"layers\.\d+\.self_attn\.q_proj", "up_proj$", "(?:q_proj)", "[qv]_proj", r"\bq_proj", "q_proj|up_proj"),
        *("^lm_head", "x{1}", "(q|v)_proj", "q_proj)|(up_proj", "not closed(", "*"),
    )
)
listed = st.lists(names, max_size=3)


@settings(deadline=None, max_examples=120)
@given(
    target=listed | names.filter(bool),
    exclude=st.none() | listed | names,
    saved=st.none() | st.lists(names.filter(lambda name: name != ""), max_size=2),
    layers=st.none() | st.integers(0, 3) | st.lists(st.sampled_from([0, 1, 3, 10]), max_size=2),
    pattern=st.none() | names | st.lists(names, max_size=2),
    ranks=st.dictionaries(names, st.integers(1, 9), max_size=3),
)
def test_any_config_targets_what_pefts_own_function_says(
    target: Any, exclude: Any, saved: Any, layers: Any, pattern: Any, ranks: dict[str, int]
) -> None:
    tuners = import_module("peft.tuners.tuners_utils")
    other = import_module("peft.utils.other")
    fields = {"target_modules": target, "exclude_modules": exclude, "modules_to_save": saved, "rank_pattern": ranks}
    fields |= {"layers_to_transform": layers, "layers_pattern": pattern}
    theirs = SimpleNamespace(**fields, target_parameters=None)
    config = parse_config(fields)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same_or_both_refuse(
            lambda: {module for module in MODULES if tuners.check_target_module_exists(theirs, module)},
            lambda: targeted(config, MODULES),
        )
        same_or_both_refuse(
            lambda: [ranks.get(other.get_pattern_key(ranks.keys(), module), 8) for module in MODULES],
            lambda: [scale.r for scale in scales(config, MODULES).values()],
        )


def same_or_both_refuse(theirs: Callable[[], Any], ours: Callable[[], Any]) -> None:
    try:
        wanted = theirs()
    except re.error:
        with pytest.raises(FormatError, match="is not a regular expression"):
            ours()
    else:
        assert ours() == wanted
