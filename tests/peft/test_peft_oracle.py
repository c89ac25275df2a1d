"""Adapters that the real PEFT wrote, over ten families and with every option: our reading equals PEFT's own."""

import dataclasses
import json
import re
import warnings
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.adapter.config import PEFT_FIELDS, LoraConfig, parse_config
from lora_cli.adapter.reading import read_adapter
from lora_cli.errors import FormatError
from lora_cli.peft.experts import rewrite_config
from lora_cli.peft.targets import DEFAULT_TARGETS, scales, targeted, targeted_in, wrapped_parameters
from lora_cli.sources.files import files_at
from tests.peft.peft_cases import CASES
from tests.peft.peft_models import Written


@pytest.mark.parametrize("name", CASES)
def test_what_peft_wrote_is_read_as_peft_meant_it(name: str, peft_wrote: Callable[[str], Written]) -> None:
    """As saved, with everything resolved, and as a user (or another trainer) writes the config."""
    written = peft_wrote(name)
    adapter, layers = read_adapter(files_at(written.directory), "tiny"), written.layers
    assert (adapter.config_error, adapter.weights_error) == (None, None)
    assert {key.part for key in adapter.keys.values()} == CASES[name].parts
    assert all(key.canonical for key in adapter.keys.values())
    assert adapter.pairs.keys() == layers.keys()
    assert adapter.config is not None
    for config in (adapter.config, parse_config(json.dumps(written.raw).encode())):
        assert (config.unknown, config.mistyped, config.duplicates) == ({}, {}, ())
        loaded, wrapped = rewrite_config(config, written.base), dict[str, str]()
        if not config.layer_replication:  # its layers are not built again: no engine serves them
            assert targeted_in(loaded, written.base) == {path for path, one in layers.items() if not one.parameter}
            wrapped = wrapped_parameters(loaded, written.base.parameters)
            assert wrapped == {
                path: f"{path.replace('.base_layer', '')}.{one.parameter}"
                for path, one in layers.items()
                if one.parameter
            }
        ours = scales(loaded, [wrapped.get(path, path) for path in layers])
        for path, layer in layers.items():
            scale = ours[wrapped.get(path, path)]
            assert (scale.r, scale.lora_alpha, scale.scaling) == (layer.r, layer.lora_alpha, layer.scaling)
            assert adapter.pairs[path].rank == layer.r * layer.num_experts


def test_our_fields_defaults_and_targets_are_pefts() -> None:
    peft, constants = import_module("peft"), import_module("peft.utils.constants")
    default, ours = peft.LoraConfig().to_dict(), LoraConfig()
    assert sorted(PEFT_FIELDS) == sorted(field.name for field in dataclasses.fields(peft.LoraConfig))
    # Set by PEFT itself, whatever a file says.
    own = {"peft_type", "peft_version", "runtime_config"}
    names = PEFT_FIELDS.keys() - own
    assert {name: getattr(ours, name) for name in names} == {name: default[name] for name in names}
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
    tuners, other = import_module("peft.tuners.tuners_utils"), import_module("peft.utils.other")
    fields = {"target_modules": target, "exclude_modules": exclude, "modules_to_save": saved, "rank_pattern": ranks}
    fields |= {"layers_to_transform": layers, "layers_pattern": pattern}
    theirs, config = SimpleNamespace(**fields, target_parameters=None), parse_config(fields)
    for asked, ours in (
        (
            lambda: {module for module in MODULES if tuners.check_target_module_exists(theirs, module)},
            lambda: targeted(config, MODULES),
        ),
        (
            lambda: [ranks.get(other.get_pattern_key(ranks.keys(), module), 8) for module in MODULES],
            lambda: [scale.r for scale in scales(config, MODULES).values()],
        ),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                wanted = asked()
            except re.error:
                with pytest.raises(FormatError, match="is not a regular expression"):
                    ours()
            else:
                assert ours() == wanted
