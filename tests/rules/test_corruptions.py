"""Any single structural corruption of a valid adapter gives at least one error, and none of them a crash."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_cli.check import Terms, check_in_place, open_base
from lora_cli.core.finding import Severity
from lora_cli.settings import Settings
from tests.making import llama_modules, lora_config, lora_tensors, safetensors_bytes, write_base_config

MODULES = llama_modules()
TENSORS = lora_tensors(MODULES)
CONFIG = lora_config(MODULES)
WHOLE = safetensors_bytes(TENSORS, {"format": "pt"})
LENGTH = int.from_bytes(WHOLE[:8], "little")
HEADER: dict[str, Any] = json.loads(WHOLE[8 : 8 + LENGTH])
NAMES = sorted(TENSORS)
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
    "init_lora_weights": ["magic", 3],
}


def header(edit: Any) -> bytes:
    """The file with an edited header, as long as its own length says."""
    changed = json.dumps(edit).encode()
    return struct.pack("<Q", len(changed)) + changed + WHOLE[8 + LENGTH :]


@st.composite
def config_field(draw: st.DrawFn) -> tuple[bytes, bytes]:
    field = draw(st.sampled_from(sorted(WRONG)))
    return json.dumps(CONFIG | {field: draw(st.sampled_from(WRONG[field]))}).encode(), WHOLE


@st.composite
def key(draw: st.DrawFn) -> tuple[bytes, bytes]:
    name, entries = draw(st.sampled_from(NAMES)), dict(HEADER)
    entry = entries.pop(name)
    at = draw(st.integers(0, len(name)))
    new = draw(
        st.sampled_from([name[:at] + "x" + name[at:], name.upper(), "x." + name, name.replace("lora_", "lore_"), ""])
    )
    return json.dumps(CONFIG).encode(), header(entries | {new: entry})


@st.composite
def shape(draw: st.DrawFn) -> tuple[bytes, bytes]:
    name = draw(st.sampled_from(NAMES))
    rows, columns = HEADER[name]["shape"]
    wrong = draw(
        st.sampled_from(
            [[columns, rows], [rows * columns], [rows, columns, 1], [rows + 1, columns], [rows], [], [-1, -1]]
        )
    )
    return json.dumps(CONFIG).encode(), header({**HEADER, name: {**HEADER[name], "shape": wrong}})


@st.composite
def dtype_or_offsets(draw: st.DrawFn) -> tuple[bytes, bytes]:
    name = draw(st.sampled_from(NAMES))
    start, stop = HEADER[name]["data_offsets"]
    changes: list[dict[str, Any]] = [
        {"dtype": "F16"}, {"dtype": "I32"}, {"dtype": "F99"}, {"dtype": 32}, {"data_offsets": [start + 4, stop]},
        {"data_offsets": [stop, start]}, {"data_offsets": [start]}, {"data_offsets": [start, stop + 4]},
        {"data_offsets": [start - 4, stop - 4]}, {"data_offsets": None},
    ]  # fmt: skip
    change = draw(st.sampled_from(changes))
    return json.dumps(CONFIG).encode(), header({**HEADER, name: {**HEADER[name], **change}})


@st.composite
def pair(draw: st.DrawFn) -> tuple[bytes, bytes]:
    gone = draw(st.sampled_from(NAMES))
    kept = {name: one for name, one in TENSORS.items() if name != gone}
    return json.dumps(CONFIG).encode(), safetensors_bytes(kept, {"format": "pt"})


@st.composite
def value(draw: st.DrawFn) -> tuple[bytes, bytes]:
    where = draw(st.integers(0, (len(WHOLE) - 8 - LENGTH) // 4 - 1))
    bad = struct.pack("<f", draw(st.sampled_from([math.nan, math.inf, -math.inf])))
    at = 8 + LENGTH + 4 * where
    return json.dumps(CONFIG).encode(), WHOLE[:at] + bad + WHOLE[at + 4 :]


@st.composite
def length(draw: st.DrawFn) -> tuple[bytes, bytes]:
    cut = draw(st.integers(0, len(WHOLE) - 1))
    return json.dumps(CONFIG).encode(), draw(st.sampled_from([WHOLE[:cut], WHOLE + b"\0" * (cut + 1)]))


KINDS: Mapping[str, st.SearchStrategy[tuple[bytes, bytes]]] = {
    "config field": config_field(),
    "key": key(),
    "shape": shape(),
    "dtype or offsets": dtype_or_offsets(),
    "pair": pair(),
    "value": value(),
    "length": length(),
}


def errors(config: bytes, weights: bytes, folder: Path) -> list[str]:
    directory = folder / "adapter"
    directory.mkdir(exist_ok=True)
    (directory / "adapter_config.json").write_bytes(config)
    (directory / "adapter_model.safetensors").write_bytes(weights)
    at = Settings(cache_dir=folder / "cache")
    base = open_base(str(write_base_config(folder / "base")), at)
    checked = check_in_place(str(directory), Terms(base), at)
    assert checked.error is None
    assert checked.verdict is not None
    return [one.code for one in checked.verdict.findings if one.severity is Severity.ERROR]


def test_the_adapter_itself_is_good(tmp_path: Path) -> None:
    assert errors(json.dumps(CONFIG).encode(), WHOLE, tmp_path) == []


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_single_corruption_is_at_least_one_error(kind: str, data: st.DataObject, tmp_path: Path) -> None:
    config, weights = data.draw(KINDS[kind])

    assert errors(config, weights, tmp_path) != []
