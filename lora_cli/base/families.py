"""Families of base models: a function for each shape, a line for each family, and the model that a config describes.

A shape is the modules that transformers 5 makes of a config, with their dimensions: its function gets a ``Model`` to
fill in and the ``Config`` of its section. Most fill in one layer, for ``decoder``; GPT-2, OPT, BERT and the vision
towers are whole. Fused experts and their routers are parameters.

Adding a family: a line in ``FAMILIES``, a function if its shape is new, and two configs in ``tests/base`` that the
transformers model itself then checks.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from typing import Any

from lora_cli import parse
from lora_cli.adapter.config import MAX_LAYERS
from lora_cli.base.base_model import MAX_DIMENSION, WHERE, BaseModel, BaseModule, ModuleKind
from lora_cli.refs.reference import hub_words

ALIASES = {
    "hidden_size": ("n_embd", "n_embed"),
    "num_hidden_layers": ("n_layer",),
    "num_attention_heads": ("n_head",),
    "max_position_embeddings": ("n_positions",),
    "num_experts": ("n_routed_experts", "num_local_experts"),
    "qkv_bias": ("use_qkv_bias",),
    "depth": ("num_hidden_layers",),
}
"""Other keys that a field has in the configs of some families."""

NULLABLE, LISTS = {"head_dim", "num_key_value_heads", "q_lora_rank"}, {"mlp_only_layers", "moe_layers"}
"""Fields with a default that may be null even so, and fields that list layers."""

Defaults = dict[str, int | None]
"""The fields of a config class with their defaults."""


@dataclass(frozen=True, slots=True)
class Config:
    """A section of a config: ``c.hidden_size`` is a whole number, or a flag where its default is one.

    ``defaults`` are all fields of its class with their defaults. One that is null or not of the class is 0: it follows
    from others, and a flag is off. A list of layers is a set, None where there is none. ``where`` is what errors call
    the section. Each raises ``FormatError`` with its key for a value of another type, or one that no model has.
    """

    fields: Mapping[str, Any]
    defaults: Defaults
    where: str = WHERE

    def __getattr__(self, key: str) -> Any:
        if key not in self.defaults:
            return 0
        default, used = self.defaults[key], key
        if key not in self.fields:
            used = next((name for name in ALIASES.get(key, ()) if name in self.fields), key)
        value, where = self.fields.get(used, default), f"{self.where}: {used}"
        if key in LISTS:
            return None if value is None else frozenset(parse.list_of(parse.integer)(value, where))
        if isinstance(default, bool):
            return parse.boolean(value or False, where)
        if value is None and (default is None or key in NULLABLE):
            return 0
        most = MAX_LAYERS if "layer" in key or key == "depth" else MAX_DIMENSION
        least = int(key not in {"num_experts", "first_k_dense_replace"})
        return parse.integer(value, where, minimum=least, maximum=most)


@dataclass(frozen=True, slots=True)
class Model:
    """The modules of a model by path, and its parameters of two or more dimensions outside them by shape.

    What is added is put below ``prefix``. Where it is one layer, ``sparse`` says whether it has experts.
    """

    modules: dict[str, BaseModule] = field(default_factory=dict)
    parameters: dict[str, tuple[int, ...]] = field(default_factory=dict)
    prefix: str = ""
    sparse: bool = False

    def under(self, prefix: str) -> "Model":
        """The same model, to add to below a further prefix."""
        return Model(self.modules, self.parameters, self.prefix + prefix)

    def layers(self, path: str, count: int, sparse: Container[int] = ()) -> Iterator["Model"]:
        """Each of ``count`` layers below ``path``, to fill in."""
        for i in range(count):
            yield Model(self.modules, self.parameters, f"{self.prefix}{path}{i}.", i in sparse)

    def add(self, path: str, d_in: int, d_out: int, bias: bool = False, kind: ModuleKind = "linear") -> None:
        """A module."""
        self.modules[self.prefix + path] = BaseModule(d_in, d_out, kind, bool(bias))

    def bare(self, path: str, *shape: int) -> None:
        """A parameter."""
        self.parameters[self.prefix + path] = shape


Build = Callable[[Model, Config], None]
"""Fills in a model, or a layer, by a config."""


def square(m: Model, *paths: str, width: int, bias: bool = True) -> None:
    """Linear layers whose two dimensions are the same."""
    for path in paths:
        m.add(path, width, width, bias)


def mlp(m: Model, first: str, second: str, width: int, inner: int, bias: bool = True) -> None:
    """Two linear layers, ``inner`` wide between them."""
    m.add(first, width, inner, bias)
    m.add(second, inner, width, bias)


def gated(m: Model, path: str, width: int, inner: int, bias: bool = False) -> None:
    """A gated MLP."""
    m.add(f"{path}.gate_proj", width, inner, bias)
    mlp(m, f"{path}.up_proj", f"{path}.down_proj", width, inner, bias)


def experts(m: Model, count: int, width: int, inner: int) -> None:
    """A router, and experts that are all in one tensor: ``[experts, d_out, d_in]``."""
    m.bare("mlp.gate.weight", count, width)
    m.bare("mlp.experts.gate_up_proj", count, 2 * inner, width)
    m.bare("mlp.experts.down_proj", count, width, inner)


def attention(m: Model, c: Config, out: str = "o_proj", packed: str = "") -> None:
    """q, k, v (``packed`` in one of this name, if any) and o, with grouped key-value heads and the class's biases."""
    width, heads, bias = c.hidden_size, c.num_attention_heads, c.attention_bias or c.use_bias
    dim = c.head_dim or width // heads
    q, kv = heads * dim, (c.num_key_value_heads or heads) * dim
    for name, size in [(packed, q + 2 * kv)] if packed else [("q_proj", q), ("k_proj", kv), ("v_proj", kv)]:
        m.add(f"self_attn.{name}", width, size, bias or c.qkv_bias)
    m.add(f"self_attn.{out}", q, width, bias)


def decoder(
    layer: Build,
    sparse: Callable[[Config], Container[int]] = lambda _: (),
    *,
    root: str = "model.",
    embedding: str = "embed_tokens",
    layers: str = "layers.",
    head: str = "lm_head",
    head_bias: bool = False,
) -> Build:
    """A decoder of such layers, with LLaMA's names around them. ``sparse`` are the layers with experts."""

    def build(m: Model, c: Config) -> None:
        m.add(root + embedding, c.vocab_size, c.hidden_size, kind="embedding")
        for one in m.layers(root + layers, c.num_hidden_layers, sparse(c)):
            layer(one, c)
        m.add(head, c.hidden_size, c.vocab_size, head_bias)

    return build


def llama(m: Model, c: Config) -> None:
    """LLaMA, and most that came after it."""
    attention(m, c)
    gated(m, "mlp", c.hidden_size, c.intermediate_size, c.mlp_bias)


def plain(m: Model, c: Config, out: str, first: str, second: str, bias: bool = False) -> None:
    """Phi 1 and 2, and StarCoder 2: two layers in the MLP."""
    attention(m, c, out)
    mlp(m, f"mlp.{first}", f"mlp.{second}", c.hidden_size, c.intermediate_size, bias or bool(c.use_bias))


def phi3(m: Model, c: Config) -> None:
    """Phi 3: q, k and v in one, and the two inner layers of the MLP."""
    attention(m, c, packed="qkv_proj")
    m.add("mlp.gate_up_proj", c.hidden_size, 2 * c.intermediate_size)
    m.add("mlp.down_proj", c.intermediate_size, c.hidden_size)


def gptj(m: Model, c: Config) -> None:
    """GPT-J."""
    square(m, *(f"attn.{name}" for name in ("k_proj", "v_proj", "q_proj", "out_proj")), width=c.hidden_size, bias=False)
    mlp(m, "mlp.fc_in", "mlp.fc_out", c.hidden_size, c.n_inner or 4 * c.hidden_size)


def gpt_neox(m: Model, c: Config) -> None:
    """GPT-NeoX and Pythia."""
    width, bias = c.hidden_size, c.attention_bias
    m.add("attention.query_key_value", width, 3 * width, bias)
    m.add("attention.dense", width, width, bias)
    mlp(m, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", width, c.intermediate_size)


def bloom(m: Model, c: Config) -> None:
    """BLOOM, and Falcon, whose keys and values are grouped (40B and later), single (7B), or one for each head."""
    width, qkv, bias = c.hidden_size, 3 * c.hidden_size, c.bias
    if c.new_decoder_architecture:
        heads = c.num_attention_heads
        qkv = width + 2 * (c.num_kv_heads or heads) * (width // heads)
    elif c.multi_query:
        qkv = width + 2 * (width // c.num_attention_heads)
    m.add("self_attention.query_key_value", width, qkv, bias)
    m.add("self_attention.dense", width, width, bias)
    mlp(m, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", width, c.ffn_hidden_size or 4 * width, bias)


def gpt_oss(m: Model, c: Config) -> None:
    """gpt-oss: experts ``[experts, d_in, d_out]`` with biases."""
    attention(m, c)
    count, width, inner = c.num_experts, c.hidden_size, c.intermediate_size
    m.bare("mlp.router.weight", count, width)
    for name, d_in, d_out in (("gate_up_proj", width, 2 * inner), ("down_proj", inner, width)):
        m.bare(f"mlp.experts.{name}", count, d_in, d_out)
        m.bare(f"mlp.experts.{name}_bias", count, d_out)


def qwen_sparse(c: Config) -> Container[int]:
    """Every n-th layer that is not listed."""
    count, step, dense = c.num_experts, c.decoder_sparse_step, c.mlp_only_layers or ()
    return {i for i in range(c.num_hidden_layers) if count and (i + 1) % step == 0 and i not in dense}


def qwen_moe(m: Model, c: Config) -> None:
    """Mixtral, and Qwen 2 and 3 with experts, in Qwen 2 beside one that all tokens share."""
    attention(m, c)
    if not m.sparse:
        gated(m, "mlp", c.hidden_size, c.intermediate_size)
        return
    experts(m, c.num_experts, c.hidden_size, c.moe_intermediate_size or c.intermediate_size)
    if inner := c.shared_expert_intermediate_size:
        gated(m, "mlp.shared_expert", c.hidden_size, inner)
        m.add("mlp.shared_expert_gate", c.hidden_size, 1)


def deepseek(m: Model, c: Config) -> None:
    """DeepSeek 2 and 3: low-rank attention (MLA), and experts beside shared ones.

    The layers that predict further tokens are not built.
    """
    heads, width, bias = c.num_attention_heads, c.hidden_size, c.attention_bias
    q = heads * (c.qk_nope_head_dim + c.qk_rope_head_dim)
    if rank := c.q_lora_rank:
        m.add("self_attn.q_a_proj", width, rank, bias)
        m.add("self_attn.q_b_proj", rank, q)
    else:
        m.add("self_attn.q_proj", width, q)
    m.add("self_attn.kv_a_proj_with_mqa", width, c.kv_lora_rank + c.qk_rope_head_dim, bias)
    m.add("self_attn.kv_b_proj", c.kv_lora_rank, heads * (c.qk_nope_head_dim + c.v_head_dim))
    m.add("self_attn.o_proj", heads * c.v_head_dim, width, bias)
    path, inner = "mlp", c.intermediate_size
    if m.sparse:
        experts(m, c.num_experts, width, c.moe_intermediate_size)
        path, inner = "mlp.shared_experts", c.moe_intermediate_size * c.n_shared_experts
    gated(m, path, width, inner, c.mlp_bias)


def llama4_sparse(c: Config) -> Container[int]:
    """Every n-th layer, or those listed."""
    step, listed = c.interleave_moe_layer_step, c.moe_layers
    return range(step - 1, c.num_hidden_layers, step) if listed is None else listed


def llama4(m: Model, c: Config) -> None:
    """Llama 4: experts ``[experts, d_in, d_out]`` beside a shared one."""
    attention(m, c)
    if not m.sparse:
        gated(m, "feed_forward", c.hidden_size, c.intermediate_size_mlp)
        return
    count, width, inner = c.num_experts, c.hidden_size, c.intermediate_size
    m.add("feed_forward.router", width, count)
    m.bare("feed_forward.experts.gate_up_proj", count, width, 2 * inner)
    m.bare("feed_forward.experts.down_proj", count, inner, width)
    gated(m, "feed_forward.shared_expert", width, inner)


def gpt2(m: Model, c: Config) -> None:
    """GPT-2: transposed linear layers (``Conv1D``), q, k and v in one."""
    width, inner, t = c.hidden_size, c.n_inner or 4 * c.hidden_size, m.under("transformer.")
    t.add("wte", c.vocab_size, width, kind="embedding")
    t.add("wpe", c.max_position_embeddings, width, kind="embedding")
    for layer in t.layers("h.", c.num_hidden_layers):
        layer.add("attn.c_attn", width, 3 * width, True, "conv1d")
        layer.add("attn.c_proj", width, width, True, "conv1d")
        layer.add("mlp.c_fc", width, inner, True, "conv1d")
        layer.add("mlp.c_proj", inner, width, True, "conv1d")
    m.add("lm_head", width, c.vocab_size)


def opt(m: Model, c: Config) -> None:
    """OPT, whose embedding may have another width than its layers."""
    width, outer, d = c.hidden_size, c.word_embed_proj_dim or c.hidden_size, m.under("model.decoder.")
    bias = c.enable_bias
    d.add("embed_tokens", c.vocab_size, outer, kind="embedding")
    d.add("embed_positions", c.max_position_embeddings + 2, width, kind="embedding")
    if outer != width:
        mlp(d, "project_out", "project_in", width, outer, bias=False)
    for layer in d.layers("layers.", c.num_hidden_layers):
        square(layer, *(f"self_attn.{name}_proj" for name in ("k", "v", "q", "out")), width=width, bias=bias)
        mlp(layer, "fc1", "fc2", width, c.ffn_dim, bias)
    m.add("lm_head", outer, c.vocab_size)


def bert(m: Model, c: Config, root: str, head: str, dense: str) -> None:
    """BERT with its language-modelling head, without the pooler that other heads have."""
    width, b = c.hidden_size, m.under(root)
    rows = {"word": c.vocab_size, "position": c.max_position_embeddings, "token_type": c.type_vocab_size}
    for name, count in rows.items():
        b.add(f"embeddings.{name}_embeddings", count, width, kind="embedding")
    names = ("self.query", "self.key", "self.value", "output.dense")
    for layer in b.layers("encoder.layer.", c.num_hidden_layers):
        square(layer, *(f"attention.{name}" for name in names), width=width)
        mlp(layer, "intermediate.dense", "output.dense", width, c.intermediate_size)
    m.add(head + dense, width, width, bias=True)
    m.add(f"{head}decoder", width, c.vocab_size, bias=True)


def siglip(m: Model, c: Config, text_width: int) -> None:
    """The vision tower of Gemma 3, and the projector to the width of the text model."""
    width, t = c.hidden_size, m.under("model.vision_tower.")
    t.bare("embeddings.patch_embedding.weight", width, c.num_channels, c.patch_size, c.patch_size)
    t.add("embeddings.position_embedding", (c.image_size // c.patch_size) ** 2, width, kind="embedding")
    if c.vision_use_head:
        t.bare("head.probe", 1, 1, width)
        t.bare("head.attention.in_proj_weight", 3 * width, width)
        t.add("head.attention.out_proj", width, width, bias=True)
        mlp(t, "head.mlp.fc1", "head.mlp.fc2", width, c.intermediate_size)
    _vision_layers(t, "encoder.layers.", c, "out_proj")
    m.bare("model.multi_modal_projector.mm_input_projection_weight", width, text_width)


def llama4_eye(m: Model, c: Config, text_width: int) -> None:
    """The vision tower of Llama 4, and the projector to the width of the text model."""
    v = m.under("vision_model.")
    v.bare("positional_embedding_vlm", (c.image_size // c.patch_size) ** 2 + 1, c.hidden_size)
    v.add("patch_embedding.linear", c.num_channels * c.patch_size**2, c.hidden_size)
    v.add("vision_adapter.mlp.fc1", c.intermediate_size, c.projector_input_dim)
    v.add("vision_adapter.mlp.fc2", c.projector_output_dim, c.projector_output_dim)
    _vision_layers(v, "model.layers.", c, "o_proj")
    m.add("multi_modal_projector.linear_1", c.vision_output_dim, text_width)


def _vision_layers(m: Model, path: str, c: Config, out: str) -> None:
    for layer in m.layers(path, c.num_hidden_layers):
        square(layer, *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", out)), width=c.hidden_size)
        mlp(layer, "mlp.fc1", "mlp.fc2", c.hidden_size, c.intermediate_size)


def qwen_vision(m: Model, c: Config, _: int) -> None:
    """The vision transformers of Qwen2-VL, which has an ``embed_dim``, and of Qwen2.5-VL."""
    width, v = c.embed_dim or c.hidden_size, m.under("model.visual.")
    merged = width * c.spatial_merge_size**2
    v.bare("patch_embed.proj.weight", width, c.in_channels, c.temporal_patch_size, c.patch_size, c.patch_size)
    v.add("merger.mlp.0", merged, merged, bias=True)
    v.add("merger.mlp.2", merged, c.out_hidden_size or c.hidden_size, bias=True)
    for layer in v.layers("blocks.", c.depth):
        layer.add("attn.qkv", width, 3 * width, bias=True)
        layer.add("attn.proj", width, width, bias=True)
        if inner := c.intermediate_size:
            gated(layer, "mlp", width, inner, bias=True)
        else:
            mlp(layer, "mlp.fc1", "mlp.fc2", width, width * c.mlp_ratio)


SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim"),
)
"""The fields that every family has."""


@dataclass(frozen=True, slots=True)
class Family:
    """One ``model_type``: the function that builds its language model, and the fields of its config class.

    ``sizes`` are the defaults of ``SIZES``, in their order, and ``more`` those of its other fields. ``tied`` is that of
    ``tie_word_embeddings``, and ``tied_in`` the sections (empty: the whole config) of which any one may set it.

    A wrapper has its text model in ``text_config``, or beside it, and builds the model of ``vision_config`` with
    ``vision``, which also gets the width of the text model.
    """

    build: Build
    sizes: Sequence[int | None]
    more: Defaults = field(default_factory=dict)
    tied: bool = False
    vision: Callable[[Model, Config, int], None] | None = None
    vision_defaults: Defaults = field(default_factory=dict)
    tied_in: tuple[str, ...] = ("",)


UNBIASED: Defaults = {"attention_bias": False}
LIKE_LLAMA, GPT_OSS, WRAPPED = decoder(llama), decoder(gpt_oss), decoder(llama, root="model.language_model.")
LLAMA = Family(LIKE_LLAMA, (32000, 4096, 11008, 32, 32), UNBIASED | {"mlp_bias": False})
BLOOM = decoder(bloom, root="transformer.", embedding="word_embeddings", layers="h.")
FALCON: Defaults = {"bias": False, "new_decoder_architecture": False, "multi_query": True}
FALCON |= {"num_kv_heads": None, "ffn_hidden_size": None}
OPT: Defaults = {"max_position_embeddings": 2048, "ffn_dim": 3072, "word_embed_proj_dim": None, "enable_bias": True}
PHI = decoder(partial(plain, out="dense", first="fc1", second="fc2", bias=True), head_bias=True)
STARCODER2 = decoder(partial(plain, out="o_proj", first="c_fc", second="c_proj"))
GPTJ = decoder(gptj, root="transformer.", embedding="wte", layers="h.", head_bias=True)
NEOX = decoder(gpt_neox, root="gpt_neox.", embedding="embed_in")
DEEPSEEK = decoder(deepseek, lambda c: range(c.first_k_dense_replace, c.num_hidden_layers))
QWEN_MOE, MIXTRAL = decoder(qwen_moe, qwen_sparse), decoder(qwen_moe, lambda c: range(c.num_hidden_layers))
MLA: Defaults = {"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64}
MLA |= {"v_head_dim": 128, "attention_bias": False}
DEEPSEEK2: Defaults = MLA | {"mlp_bias": False, "first_k_dense_replace": 0, "n_shared_experts": 2, "num_experts": 64}
DEEPSEEK2 |= {"moe_intermediate_size": 1407}
DEEPSEEK3: Defaults = MLA | {"first_k_dense_replace": 3, "n_shared_experts": 1, "num_experts": 256}
DEEPSEEK3 |= {"moe_intermediate_size": 2048}
SPARSE: Defaults = {"decoder_sparse_step": 1, "mlp_only_layers": None}
QWEN2: Defaults = SPARSE | {"qkv_bias": True, "num_experts": 60, "moe_intermediate_size": 1408}
QWEN2 |= {"shared_expert_intermediate_size": 5632}
QWEN3: Defaults = SPARSE | UNBIASED | {"num_experts": 128, "moe_intermediate_size": 768}
GEMMA3 = Family(LIKE_LLAMA, (262208, 2304, 9216, 26, 8, 4, 256), UNBIASED, tied=True)
SCOUT: Defaults = UNBIASED | {"num_experts": 16, "intermediate_size_mlp": 16384}
SCOUT |= {"interleave_moe_layer_step": 1, "moe_layers": None}
LLAMA4 = Family(decoder(llama4, llama4_sparse), (202048, 5120, 8192, 48, 40, 8, 128), SCOUT)
LLAMA4_LM = decoder(llama4, llama4_sparse, root="language_model.model.", head="language_model.lm_head")
CLS = partial(bert, root="bert.", head="cls.predictions.", dense="transform.dense")
BERT = Family(CLS, (30522, 768, 3072, 12), {"max_position_embeddings": 512, "type_vocab_size": 2}, tied=True)
ROBERTA = partial(bert, root="roberta.", head="lm_head.", dense="dense")
QWEN_VL = Family(WRAPPED, (152064, 8192, 29568, 80, 64, 8), {"qkv_bias": True}, tied_in=("", "text_config"))
QWEN_EYE: Defaults = {"depth": 32, "hidden_size": 3584, "in_channels": 3, "patch_size": 14}
QWEN_EYE |= {"spatial_merge_size": 2, "temporal_patch_size": 2}
QWEN25_EYE: Defaults = {**QWEN_EYE, "out_hidden_size": 3584, "intermediate_size": 3420}
SIGLIP: Defaults = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_channels": 3}
SIGLIP |= {"image_size": 224, "patch_size": 16, "vision_use_head": True}
LLAMA4_EYE: Defaults = {"hidden_size": 768, "intermediate_size": 5632, "num_hidden_layers": 34, "image_size": 448}
LLAMA4_EYE |= {"patch_size": 14, "num_channels": 3, "vision_output_dim": 7680}
LLAMA4_EYE |= {"projector_input_dim": 4096, "projector_output_dim": 4096}

FAMILIES: Mapping[str, Family] = {
    "llama": LLAMA,  # and what is published under its name: SmolLM2, Yi, TinyLlama
    "granite": LLAMA,  # its multipliers are outside the modules
    "mistral": Family(LIKE_LLAMA, (32000, 4096, 14336, 32, 32, 8)),
    "cohere": Family(LIKE_LLAMA, (256000, 8192, 22528, 40, 64), UNBIASED, tied=True),
    "gemma": Family(LIKE_LLAMA, (256000, 3072, 24576, 28, 16, 16, 256), UNBIASED, tied=True),
    "gemma2": Family(LIKE_LLAMA, (256000, 2304, 9216, 26, 8, 4, 256), UNBIASED, tied=True),
    "gemma3_text": GEMMA3,
    "olmo2": Family(LIKE_LLAMA, (50304, 4096, 11008, 32, 32), UNBIASED),
    "phi": Family(PHI, (51200, 2048, 8192, 24, 32), {"attention_bias": True}),
    "phi3": Family(decoder(phi3), (32064, 3072, 8192, 32, 32)),
    "qwen2": Family(LIKE_LLAMA, (151936, 4096, 22016, 32, 32, 32), {"qkv_bias": True}),
    "qwen3": Family(LIKE_LLAMA, (151936, 4096, 22016, 32, 32, 32, 128), UNBIASED),
    "stablelm": Family(LIKE_LLAMA, (50304, 2560, 6912, 32, 32, 32), {"qkv_bias": False}),
    "starcoder2": Family(STARCODER2, (49152, 3072, 12288, 30, 24, 2), {"use_bias": True}, tied=True),
    "deepseek_v2": Family(DEEPSEEK, (102400, 4096, 11008, 32, 32), DEEPSEEK2),
    "deepseek_v3": Family(DEEPSEEK, (129280, 7168, 18432, 61, 128), DEEPSEEK3),  # also R1 and Kimi K2
    "gpt_oss": Family(GPT_OSS, (201088, 2880, 2880, 36, 64, 8, 64), {"attention_bias": True, "num_experts": 128}),
    "llama4_text": LLAMA4,
    "mixtral": Family(MIXTRAL, (32000, 4096, 14336, 32, 32, 8), {"num_experts": 8}),
    "qwen2_moe": Family(QWEN_MOE, (151936, 2048, 5632, 24, 16, 16), QWEN2),
    "qwen3_moe": Family(QWEN_MOE, (151936, 2048, 6144, 24, 32, 4), QWEN3),
    "gpt2": Family(gpt2, (50257, 768, None, 12), {"n_inner": None, "max_position_embeddings": 1024}, tied=True),
    "gptj": Family(GPTJ, (50400, 4096, None, 28), {"n_inner": None}),
    "gpt_neox": Family(NEOX, (50432, 6144, 24576, 44), {"attention_bias": True}),
    "bloom": Family(BLOOM, (250880, 64, None, 2), {"bias": True}, tied=True),
    "falcon": Family(BLOOM, (65024, 4544, None, 32, 71), FALCON, tied=True),
    "opt": Family(opt, (50272, 768, None, 12), OPT, tied=True),
    "bert": BERT,
    "roberta": replace(BERT, build=ROBERTA, sizes=(50265, 768, 3072, 12)),
    "gemma3": replace(GEMMA3, build=WRAPPED, vision=siglip, vision_defaults=SIGLIP),
    "llama4": replace(LLAMA4, build=LLAMA4_LM, vision=llama4_eye, vision_defaults=LLAMA4_EYE, tied_in=("text_config",)),
    "qwen2_vl": replace(QWEN_VL, vision=qwen_vision, vision_defaults=QWEN_EYE | {"embed_dim": 1280, "mlp_ratio": 4}),
    "qwen2_5_vl": replace(QWEN_VL, vision=qwen_vision, vision_defaults=QWEN25_EYE),
}
"""Every ``model_type`` that needs no transformers."""


def base_from_config(config: Mapping[str, Any], name: str) -> BaseModel:
    """The base model that a ``config.json`` describes, with the module paths of its class for text generation.

    For a multimodal wrapper that is the ``*ForConditionalGeneration`` class; for all others ``*ForCausalLM``.
    A key that is missing means what transformers' config class of the family takes for it. A family that has no line
    here is as transformers builds it, if that is installed. ``name`` is how the user called the model.

    Raises:
        MissingExtra: transformers or torch is not installed.
        FormatError: it is no model's config, or a field has the wrong type or is beyond what any model has.
    """
    model_type = parse.text(parse.required(config, "model_type", WHERE), f"{WHERE}: model_type")
    named, saved_as = config.get("architectures"), config.get("_name_or_path")
    architecture = named[0][:128] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    repository = saved_as if isinstance(saved_as, str) and hub_words(saved_as) else ""
    family = FAMILIES.get(model_type)
    if family is None:
        from lora_cli.base.from_transformers import base_from_transformers

        built = base_from_transformers(config, architecture)
        return replace(built, name=name, architecture=architecture, repository=repository)

    def section(key: str, defaults: Defaults) -> Config:
        where = f"{WHERE}: {key}" if key else WHERE
        return Config(parse.mapping(config.get(key) or {} if key else config, where), defaults, where)

    defaults = dict(zip_longest(SIZES, family.sizes)) | family.more
    text = section("text_config" if family.vision and config.get("text_config") is not None else "", defaults)
    model = Model()
    family.build(model, text)
    if family.vision is not None:
        family.vision(model, section("vision_config", family.vision_defaults), text.hidden_size)
    dtypes = [one.get(key) for one in (config, text.fields) for key in ("dtype", "torch_dtype")]
    tied = [section(key, {"tie_word_embeddings": family.tied}) for key in family.tied_in]
    quantised = config.get("quantization_config")
    method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
    return BaseModel(
        name=name,
        model_type=model_type,
        modules=model.modules,
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        tied_embeddings=any(one.tie_word_embeddings for one in tied),
        parameters=model.parameters,
        source=f"config.json ({model_type}{f', quantised: {method}' if isinstance(method, str) else ''})",
        dtype=next((one for one in dtypes if isinstance(one, str)), "").removeprefix("torch.")[:32],
        heads=text.num_attention_heads or None,
        architecture=architecture,
        repository=repository,
    )
