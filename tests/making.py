"""Builders for adapters and base models in ``tmp_path``: small, seeded, and exactly as wrong as a test asks for."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HIDDEN, LAYERS, HEADS, KV_HEADS, INTERMEDIATE, VOCAB = 64, 2, 4, 2, 128, 256
HEAD_DIM = HIDDEN // HEADS

Q_PROJ = "model.layers.0.self_attn.q_proj"
"""The module that a plain ``write_adapter`` is on."""

REMOVE = object()
"""As a value in ``config=`` or ``overrides``: the field is left out."""

NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


@dataclass(frozen=True, slots=True)
class Raw:
    """One tensor as it stands in a safetensors file; ``dtype`` is safetensors' own name (``"F32"``)."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


Tensor = Raw | npt.NDArray[Any]


def raw(array: npt.NDArray[Any], dtype: str = "float32") -> Raw:
    """``array`` (any float dtype) as ``dtype``, which may be bfloat16 (rounded to nearest even; NaN stays NaN)."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(array, dtype="<f4").view("<u4")
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        halves = np.where(np.isnan(array), 0x7FC0, rounded).astype("<u2")
        return Raw("BF16", array.shape, halves.tobytes())
    return Raw(
        NAMES[dtype], array.shape, np.ascontiguousarray(array, dtype=np.dtype(dtype).newbyteorder("<")).tobytes()
    )


def as_raw(tensor: Tensor) -> Raw:
    """A tensor override as bytes: arrays keep their own float dtype."""
    return tensor if isinstance(tensor, Raw) else raw(tensor, tensor.dtype.name)


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file: tensors in the order given, header padded to 8 bytes as the library does."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    body = b""
    for name, tensor in tensors.items():
        one = as_raw(tensor)
        header[name] = {
            "dtype": one.dtype,
            "shape": list(one.shape),
            "data_offsets": [len(body), len(body) + len(one.data)],
        }
        body += one.data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write ``tensors`` to ``path`` (its folder is made) and give the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors_bytes(tensors, {"format": "pt"} if metadata is None else metadata))
    return path


def lora_tensors(
    modules: Mapping[str, tuple[int, int]],
    *,
    r: int = 4,
    ranks: Mapping[str, int] | None = None,
    seed: int = 0,
    dtype: str = "float32",
    prefix: str = "base_model.model.",
) -> dict[str, Raw]:
    """A and B of every module, random and non-zero, under PEFT's names. ``modules`` maps path to (d_in, d_out)."""
    random = np.random.default_rng(seed)
    tensors: dict[str, Raw] = {}
    for module, (d_in, d_out) in modules.items():
        rank = (ranks or {}).get(module, r)
        a = random.standard_normal((rank, d_in)) / max(d_in, 1) ** 0.5
        b = random.standard_normal((d_out, rank)) / max(rank, 1) ** 0.5
        tensors[f"{prefix}{module}.lora_A.weight"] = raw(a, dtype)
        tensors[f"{prefix}{module}.lora_B.weight"] = raw(b, dtype)
    return tensors


def lora_config(modules: Iterable[str], *, r: int = 4, lora_alpha: float = 8, **overrides: Any) -> dict[str, Any]:
    """An ``adapter_config.json`` for ``modules``; a field whose override is ``REMOVE`` is left out."""
    fields: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny/base",
        "revision": "5f0b02c75b57c5855da9ae460ce51323ea669d8a",
        "r": r,
        "lora_alpha": lora_alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted({module.rsplit(".", 1)[-1] for module in modules}),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    return _overridden(fields, overrides)


def write_adapter(
    directory: Path,
    *,
    modules: Mapping[str, tuple[int, int]] | None = None,
    r: int = 4,
    lora_alpha: float = 8,
    ranks: Mapping[str, int] | None = None,
    seed: int = 0,
    dtype: str = "float32",
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    drop: Iterable[str] | Callable[[str], bool] = (),
    prefix: str = "base_model.model.",
) -> Path:
    """Write a LoRA adapter as PEFT does, and give its directory.

    ``modules`` maps a module path to (d_in, d_out); None is q_proj of the first layer of the tiny llama.
    ``ranks`` gives single modules another rank in the tensors (the config is told with ``config={"rank_pattern": …}``).
    ``config`` overrides or adds fields (``REMOVE`` leaves one out). ``tensors`` replaces or adds tensors by full name.
    ``drop`` leaves out tensors: full names, or a predicate over the full name.
    """
    chosen = {Q_PROJ: (HIDDEN, HIDDEN)} if modules is None else modules
    written: dict[str, Tensor] = dict(lora_tensors(chosen, r=r, ranks=ranks, seed=seed, dtype=dtype, prefix=prefix))
    written.update(tensors or {})
    dropped = drop if callable(drop) else set(drop).__contains__
    kept = {name: tensor for name, tensor in written.items() if not dropped(name)}
    write_safetensors(directory / "adapter_model.safetensors", kept)
    fields = lora_config(chosen, r=r, lora_alpha=lora_alpha, **(config or {}))
    (directory / "adapter_config.json").write_text(json.dumps(fields, indent=2, sort_keys=True))
    return directory


def llama_modules(
    names: Iterable[str] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    layers: int = LAYERS,
) -> dict[str, tuple[int, int]]:
    """Module path to (d_in, d_out) of the tiny llama of ``write_base_config``, in the model's order."""
    shapes = {
        "self_attn.q_proj": (HIDDEN, HEADS * HEAD_DIM),
        "self_attn.k_proj": (HIDDEN, KV_HEADS * HEAD_DIM),
        "self_attn.v_proj": (HIDDEN, KV_HEADS * HEAD_DIM),
        "self_attn.o_proj": (HEADS * HEAD_DIM, HIDDEN),
        "mlp.gate_proj": (HIDDEN, INTERMEDIATE),
        "mlp.up_proj": (HIDDEN, INTERMEDIATE),
        "mlp.down_proj": (INTERMEDIATE, HIDDEN),
    }
    wanted = set(names)
    return {
        f"model.layers.{layer}.{path}": shape
        for layer in range(layers)
        for path, shape in shapes.items()
        if path.rsplit(".", 1)[-1] in wanted
    }


ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
    "bert": "BertForMaskedLM",
    "mixtral": "MixtralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "llama4_text": "Llama4ForCausalLM",
}


def base_config(family: str = "llama", **overrides: Any) -> dict[str, Any]:
    """A tiny model's ``config.json``: hidden 64, 2 layers, 4 heads, 2 kv heads, intermediate 128, vocabulary 256."""
    fields: dict[str, Any] = {"model_type": family, "architectures": [ARCHITECTURES[family]], "vocab_size": VOCAB}
    if family == "gpt2":
        fields |= {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 64, "tie_word_embeddings": True}
        return _overridden(fields, overrides)
    fields |= {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if family in {"gemma2", "qwen3", "qwen3_moe"}:
        fields |= {"head_dim": HEAD_DIM}
    if family == "mixtral":
        fields |= {"num_local_experts": 4, "num_experts_per_tok": 2}
    if family == "qwen3_moe":
        fields |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    return _overridden(fields, overrides)


def write_base_config(directory: Path, family: str = "llama", **overrides: Any) -> Path:
    """Write ``base_config`` as ``directory/config.json``; gives the path of that file."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "config.json"
    path.write_text(json.dumps(base_config(family, **overrides), indent=2))
    return path


def llama_tensors(*, seed: int = 0, dtype: str = "float32", tied: bool = False) -> dict[str, Raw]:
    """Random weights of the tiny llama under the names of its checkpoint."""
    random = np.random.default_rng(seed)

    def weight(*shape: int) -> Raw:
        return raw(random.standard_normal(shape) / shape[-1] ** 0.5, dtype)

    tensors = {"model.embed_tokens.weight": weight(VOCAB, HIDDEN)}
    for path, (d_in, d_out) in llama_modules().items():
        tensors[f"{path}.weight"] = weight(d_out, d_in)
    for layer in range(LAYERS):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = raw(np.ones(HIDDEN), dtype)
    tensors["model.norm.weight"] = raw(np.ones(HIDDEN), dtype)
    if not tied:
        tensors["lm_head.weight"] = weight(VOCAB, HIDDEN)
    return tensors


def write_base(directory: Path, *, seed: int = 0, dtype: str = "float32", shards: int = 1, **overrides: Any) -> Path:
    """Write the tiny llama with weights: config, and one file or ``shards`` files with an index. Gives the folder."""
    write_base_config(directory, "llama", torch_dtype=dtype, **overrides)
    tensors = llama_tensors(seed=seed, dtype=dtype, tied=bool(overrides.get("tie_word_embeddings")))
    if shards == 1:
        write_safetensors(directory / "model.safetensors", tensors)
        return directory
    files = {name: f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(tensors)}
    for file in sorted(set(files.values())):
        write_safetensors(directory / file, {name: tensors[name] for name in tensors if files[name] == file})
    index = {"metadata": {"total_size": sum(len(tensor.data) for tensor in tensors.values())}, "weight_map": files}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return directory


def _overridden(fields: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**fields, **overrides}.items() if value is not REMOVE}
