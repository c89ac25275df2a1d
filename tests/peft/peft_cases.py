"""Adapters for the real PEFT to write: ten families, and every option that a LoRA has."""

from dataclasses import dataclass, field
from typing import Any

from tests.peft import peft_ways
from tests.peft.peft_ways import Way

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


@dataclass(frozen=True)
class Case:
    """One adapter: a family, PEFT's options, and which kinds of tensors the file then has.

    ``raw`` is False where the config that was given is not what PEFT writes in the end: ranks that are shared out anew.
    ``way`` is how PEFT puts the adapter on the model.
    """

    family: str
    options: Options
    parts: frozenset[str] = frozenset({"lora_A", "lora_B"})
    base: Options = field(default_factory=dict)
    raw: bool = True
    way: Way = peft_ways.plain


def parts(*extra: str) -> frozenset[str]:
    return frozenset({"lora_A", "lora_B", *extra})


def llama(*extra: str, base: Options | None = None, **options: Any) -> Case:
    return Case("llama", {"target_modules": ["q_proj", "v_proj", "down_proj"], **options}, parts(*extra), base or {})


def put(way: Way, **options: Any) -> Case:
    raw = way not in {peft_ways.eva, peft_ways.as_plain_lora, peft_ways.arrow}
    return Case("llama", {"target_modules": ["q_proj", "v_proj", "down_proj"], **options}, raw=raw, way=way)


EMBEDDING = ("lora_embedding_A", "lora_embedding_B")
TIED: Options = {"tie_word_embeddings": True}

CASES: dict[str, Case] = {
    **{f"{family} list": Case(family, options) for family, options in FAMILIES.items()},
    **{
        f"{family} rslora": Case(family, options | {"use_rslora": True, "r": 6}) for family, options in FAMILIES.items()
    },
    **{f"{family} all-linear": Case(family, {"target_modules": "all-linear"}) for family in FAMILIES},
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
    "experts by their old names": Case("mixtral", {"target_modules": ["w1", "w2", "w3", "q_proj"]}),
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
    "PiSSA with fast SVD": llama(init_lora_weights="pissa_niter_4"),
    "PiSSA on Conv1D": Case("gpt2", FAMILIES["gpt2"] | {"init_lora_weights": "pissa"}),
    "PiSSA as plain LoRA": put(peft_ways.as_plain_lora, init_lora_weights="pissa", **PATTERNS),
    "OLoRA as plain rsLoRA": put(peft_ways.as_plain_lora, init_lora_weights="olora", use_rslora=True),
    "random, not zero": llama(init_lora_weights=False),
    "EVA": put(peft_ways.eva, init_lora_weights="eva", eva_config={"rho": 2.0, "tau": 0.9}),
    "EVA with alphas as they were": put(
        peft_ways.eva,
        init_lora_weights="eva",
        use_rslora=True,
        eva_config={"rho": 1.5, "adjust_scaling_factors": False},
    ),
    "EVA on Conv1D": Case(
        "gpt2", FAMILIES["gpt2"] | {"init_lora_weights": "eva", "eva_config": {}}, raw=False, way=peft_ways.eva
    ),
    "CorDA": put(peft_ways.corda, init_lora_weights="corda", corda_config={"corda_method": "kpm"}),
    "CorDA on Conv1D": Case(
        "gpt2", FAMILIES["gpt2"] | {"init_lora_weights": "corda", "corda_config": {}}, way=peft_ways.corda
    ),
    "LoftQ": put(peft_ways.loftq, init_lora_weights="loftq", loftq_config={"loftq_bits": 4, "loftq_iter": 1}),
    "LoRA-GA": put(
        peft_ways.lora_ga, init_lora_weights="lora_ga", lora_ga_config={"direction": "ArBr", "scale": "unit"}
    ),
    "LoRA-GA with patterns": put(peft_ways.lora_ga, init_lora_weights="lora_ga", lora_ga_config={}, **PATTERNS),
    "QALoRA on GPTQ": put(peft_ways.on_gptq, use_qalora=True, qalora_group_size=8),
    "QALoRA on a base that is not quantised": llama(use_qalora=True, qalora_group_size=8),
    "Arrow": put(peft_ways.arrow, arrow_config={"top_k": 1, "router_temperature": 0.5}),
    "Megatron": put(peft_ways.with_megatron, megatron_config={"hidden_size": 64}, megatron_core="megatron.core"),
    # With DoRA it would move weights to a CUDA device while the adapter is made; the field is never written.
    "offload while computing": llama(runtime_config={"ephemeral_gpu_offload": True}),
    "a fraction as alpha": llama(lora_alpha=0.5, lora_dropout=0.1),
    "what PEFT fills in itself": llama(
        peft_type="LORA",
        peft_version="0.1",
        auto_mapping={"base_model_class": "Mine", "parent_library": "mine"},
        base_model_name_or_path="org/base",
        revision="main",
        inference_mode=True,
    ),
}
