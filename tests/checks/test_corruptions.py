"""Any single structural corruption of a valid adapter gives at least one error, and none of them a crash."""

import functools
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_cli.base.base_model import BaseModel
from lora_cli.finding import Severity
from lora_cli.judging.base_model import open_base
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.making import llama_modules, lora_config, lora_tensors, safetensors_bytes, write_base_config

MODULES = llama_modules()
TENSORS = lora_tensors(MODULES)
CONFIG = lora_config(MODULES)
WHOLE = safetensors_bytes(TENSORS, {"format": "pt"})
LENGTH = int.from_bytes(WHOLE[:8], "little")
HEADER: dict[str, Any] = json.loads(WHOLE[8 : 8 + LENGTH])
NAMES = sorted(TENSORS)
CONFIG_BYTES = json.dumps(CONFIG).encode()
Files = tuple[bytes, bytes]
"""A config and weights."""
Pick = Callable[[Sequence[Any]], Any]
"""One of several, as hypothesis draws it."""
PREFIX = "base_model.model."
WRONG: Mapping[str, list[Any]] = {
    "peft_type": ["", "lora", 3, None, "IA3"],
    "r": [0, -1, "4", None, 4.0, True, 5, [4]],
    "lora_alpha": [0, -8, "8", None, math.nan, math.inf, [8]],
    "target_modules": [[], "", "(", 7, ["nothing"], {"q_proj": 1}, None],
    "rank_pattern": [{"(": 4}, {".*": 2}, [], "x", {".*": "4"}],
    "alpha_pattern": [{"(": 4}, [], {".*": "4"}, {".*": 0}],
    "use_rslora": ["false", 1, [], "true"],
    "use_dora": [True, "false"],
    "bias": ["some", 1],
    "modules_to_save": [["lm_head"], "lm_head", 3],
    "layers_to_transform": [[0], "all", [0.5]],
    "exclude_modules": [["q_proj"], "(", 3],
    "lora_dropout": [1.5, "0", math.nan],
    "init_lora_weights": ["magic", 3, "loftq", "corda"],
    "task_type": ["causal_lm", 3, ["CAUSAL_LM"]],
    "fan_in_fan_out": ["false", 0],
    "trainable_token_indices": [[], [1], [1, 1], [-1], "1", {"embed_tokens": [1]}],
    "kasa_config": [{}, True],
    "use_bdlora": [{}, "2"],
    "arrow_config": [{"top_k": 1}],
    "lora_bias": [True, "false"],
    "layer_replication": [[[-1, 2]], [0, 2], [[0, 2, 3]]],
    "target_parameters": ["q_proj.weight", ["self_attn.q_proj.weight"], [3]],
    "peft_version": [3],
    "revision": [3],
    "base_model_name_or_path": [3, ["a"]],
}


def header(edit: Any) -> Files:
    """The adapter with an edited header, as long as its own length says."""
    changed = json.dumps(edit).encode()
    return CONFIG_BYTES, struct.pack("<Q", len(changed)) + changed + WHOLE[8 + LENGTH :]


def config_field(pick: Pick) -> Files:
    field = pick(sorted(WRONG))
    return json.dumps(CONFIG | {field: pick(WRONG[field])}).encode(), WHOLE


def key(pick: Pick) -> Files:
    """Another name, which is none that PEFT writes."""
    name, entries = pick(NAMES), dict(HEADER)
    entry, at = entries.pop(name), pick(range(len(name) + 1))
    names = [name[:at] + "x" + name[at:], name.upper(), "x." + name, "", name + "\0", name + "/..", name + ".weight"]
    names += [name.replace("layers.", f"layers.{added}") for added in ("0", "9", "-", "\u0661")]
    names += [name.replace("lora_", "lore_"), name.replace(PREFIX, "module."), name.replace(".weight", ".Weight")]
    return header(entries | {pick(names): entry})


def exchange(pick: Pick) -> Files:
    """The two factors of one module under each other's name, or of two modules of different shapes."""
    name = pick(NAMES)
    others = [one for one in NAMES if HEADER[one]["shape"] != HEADER[name]["shape"]]
    twin = name.replace("lora_A", "lora_#").replace("lora_B", "lora_A").replace("lora_#", "lora_B")
    other = pick([twin, *others])
    return header({**HEADER, name: HEADER[other], other: HEADER[name]})


def shape(pick: Pick) -> Files:
    name = pick(NAMES)
    rows, columns = HEADER[name]["shape"]
    wrong = [[columns, rows], [rows * columns], [rows, columns, 1], [rows + 1, columns], [rows], [], [-1, -1]]
    return header({**HEADER, name: {**HEADER[name], "shape": pick(wrong)}})


def dtype_or_offsets(pick: Pick) -> Files:
    name = pick(NAMES)
    start, stop = HEADER[name]["data_offsets"]
    offsets = [
        [start + 4, stop], [stop, start], [start], [start, stop + 4], [start - 4, stop - 4], None,
    ]  # fmt: skip
    changes = [{"shape": None}, {"shape": [0, 64], "data_offsets": [start, start]}]
    changes += [{"dtype": one} for one in ("F16", "I32", "U32", "F99", 32, "f32", None)]
    return header({**HEADER, name: {**HEADER[name], **pick([*changes, *({"data_offsets": one} for one in offsets)])}})


def pair(pick: Pick) -> Files:
    gone = pick(NAMES)
    kept = {name: one for name, one in TENSORS.items() if name != gone}
    return CONFIG_BYTES, safetensors_bytes(kept, {"format": "pt"})


def value(pick: Pick) -> Files:
    at = 8 + LENGTH + 4 * pick(range((len(WHOLE) - 8 - LENGTH) // 4))
    return CONFIG_BYTES, WHOLE[:at] + struct.pack("<f", pick([math.nan, math.inf, -math.inf])) + WHOLE[at + 4 :]


def length(pick: Pick) -> Files:
    cut = pick(range(len(WHOLE)))
    return CONFIG_BYTES, pick([WHOLE[:cut], WHOLE + b"\0" * (cut + 1)])


KINDS: tuple[Callable[[Pick], Files], ...] = (config_field, key, shape, dtype_or_offsets, pair, value, length, exchange)


@functools.cache
def base(folder: Path) -> BaseModel:
    return open_base(str(write_base_config(folder)), Settings(cache_dir=folder / "cache"))


def errors(config: bytes, weights: bytes, folder: Path) -> list[str]:
    directory = folder / "adapter"
    directory.mkdir(exist_ok=True)
    (directory / "adapter_config.json").write_bytes(config)
    (directory / "adapter_model.safetensors").write_bytes(weights)
    checked = judge_one(Request("", str(directory)), Terms(base(folder / "base")), Settings(cache_dir=folder / "cache"))
    assert checked.error is None
    return [one.code for one in checked.findings if one.severity is Severity.ERROR]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_single_corruption_is_at_least_one_error(
    kind: Callable[[Pick], Files], data: st.DataObject, tmp_path: Path
) -> None:
    assert errors(CONFIG_BYTES, WHOLE, tmp_path) == []
    config, weights = kind(lambda options: data.draw(st.sampled_from(options)))
    assert errors(config, weights, tmp_path) != []
