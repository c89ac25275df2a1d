"""Any single structural corruption of a valid adapter gives at least one error, and none of them a crash."""

import functools
import json
import math
import struct
from collections.abc import Mapping
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

STRANGE_NAMES = [
    "{}\0", "{} ", "{}\ud800", "\ufeff{}", "{}\n", "{}.weight", "{}/..", "../{}", "{}.default.sql",
]  # fmt: skip
"""What a name may be grown by; whatever it is then, it is none that PEFT writes."""


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
        st.sampled_from(
            [
                *(name[:at] + "x" + name[at:], name.upper(), "x." + name, name.replace("lora_", "lore_"), ""),
                *(name.replace("layers.", f"layers.{added}") for added in ("0", "9", "-", "+", "\u0661")),
                *(
                    name.replace("_proj", "_pr\u043ej"),
                    name.replace("lora_", "Lora_"),
                    name.replace(".weight", ".Weight"),
                ),
                *(
                    name.replace("base_model.model.", wrapper)
                    for wrapper in ("base_model.", "module.", "base_model.model.m.")
                ),
                *(form.format(name) for form in STRANGE_NAMES),
            ]
        )
    )
    return json.dumps(CONFIG).encode(), header(entries | {new: entry})


@st.composite
def exchange(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """The two factors of one module under each other's name, or of two modules of different shapes."""
    name = draw(st.sampled_from(NAMES))
    others = [one for one in NAMES if HEADER[one]["shape"] != HEADER[name]["shape"]]
    twin = name.replace("lora_A", "lora_#").replace("lora_B", "lora_A").replace("lora_#", "lora_B")
    other = draw(st.sampled_from([twin, *others]))
    return json.dumps(CONFIG).encode(), header({**HEADER, name: HEADER[other], other: HEADER[name]})


@st.composite
def header_bytes(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Not the header's meaning, but its bytes: what one reader takes and another does not."""
    text, name = json.dumps(HEADER), draw(st.sampled_from(NAMES))
    entry, data, named = json.dumps(HEADER[name]), text.encode(), name.encode()
    texts = [
        text.replace('"', "'"),
        f"[{text}]",
        f'{text[:-1]}, "{name}": {entry}}}',
        text.replace(entry, entry[:-1] + ', "x": 1}'),
        text.replace('"shape": [', '"shape": [1.0, '),
        text.replace('"shape": [', '"shape": [NaN, '),
        text.replace('"dtype":', '"dtype": "F32", "dtype":', 1),
        text.replace('"__metadata__": {', '"__metadata__": {"n": 1, '),
        *("null", "{}", ""),
    ]
    of_bytes = [
        *(b"\xef\xbb\xbf" + data, b" " + data, data + b"{}", data + b"\0", data[:-1], text.encode("utf-16")),
        data.replace(named, named[:-1] + b"\xff"),
        data.replace(named, named[:-1] + b"\xed\xa0\x80"),
    ]
    changed = draw(st.sampled_from([*(one.encode() for one in texts), *of_bytes]))
    return json.dumps(CONFIG).encode(), struct.pack("<Q", len(changed)) + changed + WHOLE[8 + LENGTH :]


@st.composite
def header_length(draw: st.DrawFn) -> tuple[bytes, bytes]:
    near = st.sampled_from([LENGTH - 1, LENGTH + 1, 0, 2**63, 2**64 - 1])
    wrong = draw(near | st.integers(0, 2**64 - 1).filter(lambda number: number != LENGTH))
    return json.dumps(CONFIG).encode(), struct.pack("<Q", wrong) + WHOLE[8:]


@st.composite
def config_bytes(draw: st.DrawFn) -> tuple[bytes, bytes]:
    text = json.dumps(CONFIG)
    texts = [
        *(text + "x", text + "\0", f"// note\n{text}", text[:-1], text[:-1] + ",}", f'{{"r": 64, {text[1:]}'),
        *(text.replace('"', "'"), text.replace('"r"', '"R"'), f"[{text}]", "", "null", "[" * 100_000),
        text.replace('"lora_alpha": 8', '"lora_alpha": 1e400'),
        text.replace('"lora_alpha": 8', '"lora_alpha": -Infinity'),
    ]
    return draw(st.sampled_from([text.encode("utf-16"), *(one.encode() for one in texts)])), WHOLE


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
        {"dtype": "F16"}, {"dtype": "I32"}, {"dtype": "U32"}, {"dtype": "F99"}, {"dtype": 32}, {"dtype": "f32"},
        {"dtype": None}, {"shape": None}, {"shape": [0, 64], "data_offsets": [start, start]},
        {"data_offsets": [start + 4, stop]},
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
    "exchange": exchange(),
    "bytes of the header": header_bytes(),
    "length of the header": header_length(),
    "bytes of the config": config_bytes(),
}


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
    assert checked.error is None
    return [one.code for one in checked.findings if one.severity is Severity.ERROR]


def test_the_adapter_itself_is_good(tmp_path: Path) -> None:
    assert errors(json.dumps(CONFIG).encode(), WHOLE, tmp_path) == []


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_single_corruption_is_at_least_one_error(kind: str, data: st.DataObject, tmp_path: Path) -> None:
    config, weights = data.draw(KINDS[kind])

    assert errors(config, weights, tmp_path) != []
