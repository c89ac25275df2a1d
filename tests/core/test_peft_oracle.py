"""Adapters that the real PEFT wrote, over ten families and with every option: our reading equals PEFT's own."""

import dataclasses
import json
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.core.adapter import Adapter
from lora_cli.core.default_targets import DEFAULT_TARGETS
from lora_cli.core.keys import parse_key
from lora_cli.core.lora_config import LoraConfig, parse_config, peft_fields
from lora_cli.core.reference import AdapterRef
from lora_cli.core.targets import replicated, scales, targeted, targeted_in, wrapped_parameters
from lora_cli.errors import FormatError
from lora_cli.read.adapter import read_adapter
from lora_cli.sources.local import LocalSource
from tests.core.peft_models import Written, write_with_peft

Options = dict[str, Any]

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "gemma2")

FAMILIES: dict[str, Options] = {
    **{family: {"target_modules": [*ATTENTION, "gate_proj", "up_proj", "down_proj"]} for family in LLAMA_LIKE},
    "phi3": {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]},
    "gpt2": {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    "gpt_neox": {"target_modules": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]},
    "mixtral": {"target_modules": ATTENTION, "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    "qwen3_moe": {"target_modules": ATTENTION, "target_parameters": ["mlp.experts.down_proj"]},
}

PATTERNS: Options = {
    "rank_pattern": {"layers.0.self_attn.q_proj": 2, ".*v_proj": 16, "model.layers.1.mlp.down_proj": 1, "proj": 32},
    "alpha_pattern": {"q_proj": 3, r"layers\.[01]\.mlp\.(up|down)_proj": 5, "^model.layers.1.self_attn.v_proj": 7},
}
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:q_proj|v_proj).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|k_proj|v_proj|up_proj)))"
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One adapter: a family, PEFT's options, and which kinds of tensors the file then has.

    ``raw`` is False where PEFT rewrites the config for transformers 5 before it matches anything.
    """

    family: str
    options: Options
    parts: frozenset[str] = frozenset({"lora_A", "lora_B"})
    base: Options = dataclasses.field(default_factory=dict)
    raw: bool = True


def parts(*extra: str) -> frozenset[str]:
    return frozenset({"lora_A", "lora_B", *extra})


def llama(*extra: str, base: Options | None = None, **options: Any) -> Case:
    return Case("llama", {"target_modules": ["q_proj", "v_proj", "down_proj"], **options}, parts(*extra), base or {})


EMBEDDING = ("lora_embedding_A", "lora_embedding_B")
TIED: Options = {"tie_word_embeddings": True}

CASES: dict[str, Case] = {
    **{f"{family} list": Case(family, options) for family, options in FAMILIES.items()},
    **{
        f"{family} rslora": Case(family, options | {"use_rslora": True, "r": 6}) for family, options in FAMILIES.items()
    },
    **{
        f"{family} all-linear": Case(
            family, {"target_modules": "all-linear"}, raw="moe" not in family and family != "mixtral"
        )
        for family in FAMILIES
    },
    **{f"{family} default": Case(family, {}) for family in FAMILIES if family not in {"phi3", "mixtral", "qwen3_moe"}},
    **{
        f"{family} patterns": Case(family, FAMILIES[family] | PATTERNS)
        for family in (*LLAMA_LIKE, "mixtral", "qwen3_moe")
    },
    "gpt2 patterns": Case(
        "gpt2", FAMILIES["gpt2"] | {"rank_pattern": {"attn.c_proj": 2}, "alpha_pattern": {r"h\.\d+\.mlp\.c_fc": 3}}
    ),
    "patterns with rslora": llama(use_rslora=True, **PATTERNS),
    "a pattern with a group that is not closed": llama(rank_pattern={r"q_proj)|(v_proj": 2}),
    "a full path as a pattern": llama(rank_pattern={"model.layers.0.self_attn.q_proj": 2, "model.layers.1": 3}),
    "DoRA": llama("magnitude", use_dora=True),
    "DoRA on Conv1D": Case("gpt2", FAMILIES["gpt2"] | {"use_dora": True}, parts("magnitude")),
    "DoRA on an embedding": Case(
        "llama",
        {"target_modules": ["embed_tokens"], "use_dora": True},
        frozenset({*EMBEDDING, "magnitude", "base_layer"}),
    ),
    "lora_bias": llama("lora_bias", lora_bias=True),
    "bias all": Case("qwen2", {"target_modules": ["q_proj"], "bias": "all"}, parts("bias", "saved")),
    "bias lora_only": Case("qwen2", {"target_modules": ["q_proj"], "bias": "lora_only"}, parts("bias")),
    "bias of Conv1D": Case("gpt2", {"target_modules": ["c_attn"], "bias": "lora_only"}, parts("bias")),
    "modules_to_save": llama("saved", modules_to_save=["lm_head", "norm"]),
    "modules_to_save wins over targets": llama("saved", modules_to_save=["layers.1.mlp"]),
    "modules_to_save as a pattern": llama("saved", modules_to_save=[r"layers\.0\.mlp\.(up|down)_proj", "lm_head"]),
    "trainable tokens": llama("trainable_tokens", trainable_token_indices=[1, 2, 5]),
    "trainable tokens by name": llama("trainable_tokens", trainable_token_indices={"embed_tokens": [7]}),
    "trainable tokens tied": llama("trainable_tokens", base=TIED, trainable_token_indices=[1]),
    "layers_to_transform int": llama(layers_to_transform=1),
    "layers_to_transform list": llama(layers_to_transform=[0, 5]),
    "layers_to_transform none": llama(layers_to_transform=[]),
    "layers_pattern": llama(layers_to_transform=[1], layers_pattern="layers"),
    "layers_pattern list": llama(layers_to_transform=[0], layers_pattern=["h", "lay.*s"]),
    "a full path goes past layers_to_transform": llama(
        layers_to_transform=[0], target_modules=["q_proj", "model.layers.1.self_attn.k_proj"]
    ),
    "layers of gpt2": Case("gpt2", {"target_modules": ["c_attn"], "layers_to_transform": [1], "layers_pattern": "h"}),
    "layers of gpt_neox": Case("gpt_neox", {"target_modules": ["dense"], "layers_to_transform": 0}),
    "layers of experts' attention": Case("qwen3_moe", {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "exclude list": llama(exclude_modules=["layers.0.self_attn.q_proj", "down_proj"]),
    "exclude regex": llama(exclude_modules=r".*layers\.1\..*"),
    "exclude a full path": llama(exclude_modules=["model.layers.0.self_attn.q_proj"]),
    "regex": llama(target_modules=r".*\.(q|up)_proj"),
    "regex of a trainer": llama(target_modules=UNSLOTH),
    "regex with look-ahead": llama(target_modules=r"model\.layers\.(?!0\.).*\.(q_proj|k_proj)"),
    "regex of one layer": llama(target_modules=r"model\.layers\.1\.mlp\.(gate|up)_proj"),
    "regex with flags": llama(target_modules=r"(?i).*Q_PROJ"),
    "regex on gpt2": Case("gpt2", {"target_modules": r".*\.h\.[0-9]+\.attn\.c_(attn|proj)"}),
    "partly qualified names": llama(target_modules=["self_attn.q_proj", "mlp.up_proj", "layers.0.self_attn.o_proj"]),
    "over twenty names": llama(
        target_modules=[
            f"model.layers.{i}.{p}"
            for i in range(2)
            for p in [*(f"self_attn.{name}" for name in ATTENTION), "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
        ]
        + [f"no.such.module.{i}" for i in range(10)]
    ),
    "embeddings": llama(*EMBEDDING, "base_layer", target_modules=["q_proj", "embed_tokens", "lm_head"]),
    "embeddings with rslora": llama(
        *EMBEDDING, "base_layer", target_modules=["q_proj", "embed_tokens"], use_rslora=True
    ),
    "embeddings of gpt2": Case("gpt2", {"target_modules": ["wte", "wpe", "c_attn"]}, parts(*EMBEDDING)),
    "embeddings tied apart": llama(*EMBEDDING, "base_layer", base=TIED, target_modules=["embed_tokens", "lm_head"]),
    "embeddings tied": llama(*EMBEDDING, base=TIED, target_modules=["q_proj", "lm_head"], ensure_weight_tying=True),
    "embeddings tied by regex": llama(
        *EMBEDDING, "base_layer", base=TIED, target_modules=r".*q_proj|(model\.)?embed_tokens", ensure_weight_tying=True
    ),
    "tying without embeddings": llama(base=TIED, ensure_weight_tying=True),
    "tying an untied model": llama(ensure_weight_tying=True),
    "saved embedding, tied": llama("saved", base=TIED, modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "layer_replication": llama(layer_replication=[[0, 2], [1, 2], [0, 1]]),
    "experts' second parameter": Case("mixtral", {"target_modules": [], "target_parameters": ["experts.gate_up_proj"]}),
    "experts by bare names": Case(
        "qwen3_moe", {"target_modules": [], "target_parameters": ["down_proj", "gate_up_proj"]}
    ),
    "experts with patterns": Case(
        "mixtral",
        {
            "target_modules": [],
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
            "rank_pattern": {r".*\.gate_up_proj": 2, "experts.down_proj": 3},
            "alpha_pattern": {"down_proj": 1},
        },
    ),
    "experts by their old names": Case("mixtral", {"target_modules": ["w1", "w2", "w3", "q_proj"]}, raw=False),
    "the router": Case("mixtral", {"target_modules": ["q_proj"], "target_parameters": ["gate.weight"]}),
    "a dense weight as a parameter": llama(target_modules=[], target_parameters=["self_attn.q_proj.weight"]),
    "KaSA": llama("diag", kasa_config={"beta": 0.1, "gamma": 0.1}),
    "MonteCLoRA": llama("variant", monteclora_config={"num_samples": 2, "buffer_size": 4}),
    "VeLoRA": llama("variant", velora_config={"num_groups": 4}),
    "BD-LoRA": llama(
        target_modules=["q_proj", "o_proj"],
        use_bdlora={"target_modules_bd_a": ["o_proj"], "target_modules_bd_b": ["q_proj"], "nblocks": 2},
    ),
    "aLoRA": llama(alora_invocation_tokens=[1, 2], task_type="CAUSAL_LM"),
    "PiSSA": llama(init_lora_weights="pissa"),
    "OLoRA": llama(init_lora_weights="olora"),
    "gaussian": llama(init_lora_weights="gaussian"),
    "orthogonal": llama(init_lora_weights="orthogonal"),
    "MiCA": llama(init_lora_weights="mica"),
    "a fraction as alpha": llama(lora_alpha=0.5, lora_dropout=0.1),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def written(case: Case, tmp_path: Path) -> Written:
    return write_with_peft(tmp_path, case.family, {"r": 4, "lora_alpha": 12, **case.options}, case.base)


def read(directory: Path) -> Adapter:
    source = LocalSource()
    return read_adapter(source, source.resolve(AdapterRef("file", str(directory))), "tiny")


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
    return config


def check_targets(config: LoraConfig, written: Written) -> dict[str, str]:
    """The targets of ``config`` are the layers that PEFT made; gives the wrappers of parameters."""
    layers = written.layers
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
            assert key.adapter_name == "default" or key.part == "variant"


def test_what_peft_wrote_is_read_as_peft_meant_it(case: Case, written: Written) -> None:
    adapter = read(written.directory)
    config = check_file(adapter, case, written)
    wrapped = check_targets(config, written)
    check_scales(config, adapter, written, wrapped)
    check_names_in_the_model(adapter, written)
    if case.raw:
        # Not only as saved, with everything resolved, but as a user (or another trainer) writes it.
        raw = parse_config(json.dumps(written.raw).encode())
        assert raw.mistyped == {}
        check_scales(raw, adapter, written, check_targets(raw, written))


def test_replicated_layers_have_the_names_that_peft_gives_them(tmp_path: Path) -> None:
    written = write_with_peft(
        tmp_path, "llama", {"target_modules": "all-linear", "layer_replication": [[0, 2], [0, 1]]}, {}
    )
    config = read(tmp_path).config
    assert config is not None
    stacked = replicated(config, written.base)
    assert stacked.num_layers == 3
    assert set(stacked.modules) - {"lm_head", "model.embed_tokens"} == set(written.layers)


def test_our_fields_and_defaults_are_pefts() -> None:
    peft = pytest.importorskip("peft")
    theirs = {field.name: field for field in dataclasses.fields(peft.LoraConfig)}
    assert sorted(peft_fields()) == sorted(theirs)
    default, ours = peft.LoraConfig().to_dict(), LoraConfig()
    # Set by PEFT itself, whatever a file says.
    own = {"peft_type", "peft_version", "runtime_config"}
    assert {name: getattr(ours, name) for name in theirs if name not in own} == {
        name: value for name, value in default.items() if name not in own
    }


def test_our_default_targets_are_pefts() -> None:
    constants = pytest.importorskip("peft.utils.constants")
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


@settings(deadline=None, max_examples=600)
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
    tuners = pytest.importorskip("peft.tuners.tuners_utils")
    other = pytest.importorskip("peft.utils.other")
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
