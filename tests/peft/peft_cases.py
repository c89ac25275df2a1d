"""Adapters for the real PEFT to write: ten families, and the options of a LoRA that an engine serves."""

from dataclasses import dataclass, field
from typing import Any

Options = dict[str, Any]

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "gemma2")

FAMILIES: dict[str, Options] = {
    **{family: {"target_modules": LINEAR} for family in LLAMA_LIKE},
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


@dataclass(frozen=True)
class Case:
    """One adapter: a family, PEFT's options, and which kinds of tensors the file then has."""

    family: str
    options: Options
    parts: frozenset[str] = frozenset({"lora_A", "lora_B"})
    base: Options = field(default_factory=dict)


def case(family: str, *extra: str, base: Options | None = None, **options: Any) -> Case:
    return Case(family, options, frozenset({"lora_A", "lora_B", *extra}), base or {})


def llama(*extra: str, base: Options | None = None, **options: Any) -> Case:
    return case("llama", *extra, base=base, **{"target_modules": ["q_proj", "v_proj", "down_proj"], **options})


def parameters(family: str, *named: str, **options: Any) -> Case:
    return case(family, target_modules=[], target_parameters=[*named], **options)


EMBEDDING = ("lora_embedding_A", "lora_embedding_B")
TIED: Options = {"tie_word_embeddings": True}
WHERE: dict[str, Options] = {
    "layers_to_transform int": {"layers_to_transform": 1},
    "layers_to_transform list": {"layers_to_transform": [0, 5]},
    "layers_to_transform none": {"layers_to_transform": []},
    "layers_pattern list": {"layers_to_transform": [0], "layers_pattern": ["h", "lay.*s"]},
    "exclude list": {"exclude_modules": ["layers.0.self_attn.q_proj", "down_proj"]},
    "exclude a full path": {"exclude_modules": ["model.layers.0.self_attn.q_proj"]},
    "layer_replication": {"layer_replication": [[0, 2], [1, 2], [0, 1]]},
    "patterns with rslora": {"use_rslora": True, **PATTERNS},
    "a pattern with a group that is not closed": {"rank_pattern": {r"q_proj)|(v_proj": 2}},
    "tying without embeddings": {"base": TIED, "ensure_weight_tying": True},
    "a fraction as alpha": {"lora_alpha": 0.5, "lora_dropout": 0.1},
    "aLoRA": {"alora_invocation_tokens": [1, 2], "task_type": "CAUSAL_LM"},
    **{init: {"init_lora_weights": init} for init in ("pissa", "olora", "gaussian", "orthogonal", "pissa_niter_4")},
}
TARGETS: dict[str, Any] = {
    "regex": r".*\.(q|up)_proj",
    "regex of a trainer": UNSLOTH,
    "regex with look-ahead": r"model\.layers\.(?!0\.).*\.(q_proj|k_proj)",
    "partly qualified names": ["self_attn.q_proj", "mlp.up_proj", "layers.0.self_attn.o_proj"],
    "over twenty names": [
        *(f"model.layers.{i}.self_attn.{name}" for i in range(2) for name in ATTENTION),
        *(f"no.such.module.{i}" for i in range(20)),
    ],
}

CASES: dict[str, Case] = {
    **{f"{family} list": case(family, **options) for family, options in FAMILIES.items()},
    **{f"{family} rslora": case(family, **options, use_rslora=True, r=6) for family, options in FAMILIES.items()},
    **{f"{family} all-linear": case(family, target_modules="all-linear") for family in FAMILIES},
    **{f"{family} default": case(family) for family in (*LLAMA_LIKE, "gpt2", "gpt_neox")},
    **{f"{family} patterns": case(family, **FAMILIES[family], **PATTERNS) for family in (*LLAMA_LIKE, "mixtral")},
    **{name: llama(**options) for name, options in WHERE.items()},
    **{name: llama(target_modules=targets) for name, targets in TARGETS.items()},
    "gpt2 patterns": case(
        "gpt2", **FAMILIES["gpt2"], rank_pattern={"attn.c_proj": 2}, alpha_pattern={r"h\.\d+\.mlp\.c_fc": 3}
    ),
    "DoRA": llama("magnitude", use_dora=True),
    "lora_bias": llama("lora_bias", lora_bias=True),
    "bias all": case("qwen2", "bias", "saved", target_modules=["q_proj"], bias="all"),
    "bias lora_only": case("qwen2", "bias", target_modules=["q_proj"], bias="lora_only"),
    "modules_to_save": llama("saved", modules_to_save=["lm_head", "norm"]),
    "modules_to_save wins over targets": llama("saved", modules_to_save=["layers.1.mlp"]),
    "modules_to_save as a pattern": llama("saved", modules_to_save=[r"layers\.0\.mlp\.(up|down)_proj", "lm_head"]),
    "trainable tokens": llama("trainable_tokens", trainable_token_indices=[1, 2, 5]),
    "trainable tokens tied": llama("trainable_tokens", base=TIED, trainable_token_indices=[1]),
    "a full path goes past layers_to_transform": llama(
        layers_to_transform=[0], target_modules=["q_proj", "model.layers.1.self_attn.k_proj"]
    ),
    "layers of gpt2": case("gpt2", target_modules=["c_attn"], layers_to_transform=[1], layers_pattern="h"),
    "embeddings": llama(*EMBEDDING, "base_layer", target_modules=["q_proj", "embed_tokens", "lm_head"]),
    "embeddings of gpt2": case("gpt2", *EMBEDDING, target_modules=["wte", "wpe", "c_attn"]),
    "embeddings tied apart": llama(*EMBEDDING, "base_layer", base=TIED, target_modules=["embed_tokens", "lm_head"]),
    "embeddings tied": llama(*EMBEDDING, base=TIED, target_modules=["q_proj", "lm_head"], ensure_weight_tying=True),
    "experts' second parameter": parameters("mixtral", "experts.gate_up_proj"),
    "experts with patterns": parameters(
        *("mixtral", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
        rank_pattern={r".*\.gate_up_proj": 2, "experts.down_proj": 3},
        alpha_pattern={"down_proj": 1},
    ),
    "experts by their old names": case("mixtral", target_modules=["w1", "w2", "w3", "q_proj"]),
    "the router": case("mixtral", target_modules=["q_proj"], target_parameters=["gate.weight"]),
    "a dense weight as a parameter": parameters("llama", "self_attn.q_proj.weight"),
}
