"""Formats that can be found in place of a PEFT LoRA adapter, and how each is recognised: tables.

Sources of the layouts: mlx-lm (``tuner/utils.py``), llama.cpp (``convert_lora_to_gguf.py``), kohya-ss/sd-scripts
(``networks/lora.py``), LyCORIS, diffusers (``loaders/lora_base.py``), vLLM up to 0.31 (tensorizer), git-lfs, git-xet.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lora_cli.adapter.config import LoraConfig


class Format(NamedTuple):
    """One format: what it is ("a Kohya LoRA"), and what to do with it.

    It is known by any of: ``files``, a pattern for a path; ``start``, how its first bytes begin (in small letters);
    ``keys``, a pattern that is found in the name of a tensor.
    """

    title: str
    advice: str
    files: str = ""
    start: tuple[bytes, ...] = ()
    keys: str = ""


class Found(NamedTuple):
    """A format, and the file that it was known by."""

    format: Format
    file: str


HUB = "or fetch the adapter from the Hub"
AGAIN = "download the file again from where the adapter was published; a login or error page was saved"
GIT_LFS = (b"version https://git-lfs.github.com/", b"version https://hawser.github.com/")
GIT_XET = (b"# xet version", b"version https://xetdata.com/")
STAND_INS = (
    Format("a git-lfs pointer", f"run git lfs pull in the clone, {HUB}", start=GIT_LFS),
    Format("a Xet pointer", f"run git xet checkout in the clone, {HUB}", start=GIT_XET),
    Format("a web page", AGAIN, start=(b"<!doctype", b"<html")),
)
"""Stand-ins for a file: neither a format of an adapter nor corrupt. Recognised by their first bytes."""

SHARDED = Format(
    "a PEFT adapter in shards",
    "write all tensors into one adapter_model.safetensors: `lora-cli repair` does, or load_file() of each shard and "
    "save_file() of all",
    files=r"adapter_model-\d{5}-of-\d{5}\.(safetensors|bin)|adapter_model\.(safetensors|bin)\.index\.json",
)
MLX = Format(
    "an MLX LoRA",
    "transpose lora_a and lora_b, give them PEFT's names and write PEFT's config, or train with PEFT",
    files=r"(\d{7}_)?adapters\.(safetensors|npz)",
    keys=r"\.lora_[ab]$",
)
GGUF = "use the PEFT adapter that it was made from: llama.cpp loads a GGUF LoRA with --lora, engines do not"
TENSORIZER = "vLLM reads it up to 0.31, and from Python only; use the PEFT adapter that it was made from"
IMAGES = "diffusers reads it with load_lora_weights(); engines for language models do not"
FORMATS = (
    SHARDED,
    Format("a GGUF model for llama.cpp", GGUF, r".*\.gguf", (b"gguf",)),
    Format("an adapter in vLLM's tensorizer format", TENSORIZER, r"adapter_model\.tensors", (b"|tzr|",)),
    MLX,
    Format(
        "a Kohya LoRA for images",
        IMAGES,
        keys=r"^(lora_(unet|te\d?|prior|transformer)|lycoris)_|\.lora_(down|up)\.weight$",
    ),
    Format(
        "a diffusers LoRA for images",
        IMAGES,
        files=r"pytorch_lora_weights\.(safetensors|bin)",
        keys=r"^(unet|text_encoder(_\d)?|prior)\.|^(transformer\.)?(single_)?transformer_blocks\.",
    ),
    Format(
        "a full model",
        "serve it as a model, or use the adapter that was merged into it",
        files=r"(model|pytorch_model|consolidated)([-.]\d+(-of-\d+)?)?\.(safetensors|bin|pth)(\.index\.json)?",
        keys=r"^(model|transformer|gpt_neox|language_model|decoder|encoder|bert|roberta)\.(?!.*lora_).*\.weight$",
    ),
)
"""Other formats than PEFT's, in the order in which they are looked for."""

METHODS = frozenset({
    "ADALORA", "ADAMSS", "ADAPTION_PROMPT", "BEFT", "BOFT", "C3A", "CARTRIDGE", "CPT", "DEFT", "DELORA",
    "FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA", "HRA", "IA3", "LILY", "LN_TUNING", "LOHA", "LOKR", "MISS",
    "MULTITASK_PROMPT_TUNING", "OFT", "OSF", "PEANUT", "POLY", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING",
    "PSOFT", "PVERA", "RANDLORA", "ROAD", "SHADOW", "SHIRA", "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS",
    "UNILORA", "VBLORA", "VERA", "WAVEFT", "XLORA",
})  # fmt: skip
"""PEFT's other methods by their ``peft_type``: PEFT refuses any other, and loads these as something else."""

DIALECTS: Mapping[str, str] = {
    r"\.(qkv_proj|gate_up_proj|query_key_value|Wqkv|W_pack|qkv|c_attn)\.": "fused projections",
    r"\.experts\.\d+\.": "one module for each expert",
    r"\.experts(\.base_layer)?\.lora_": "fused experts",
    r"_orig_mod\.": "names of torch.compile",
    r"_fsdp_wrapped_module\.": "names of FSDP",
    r"\.lora_(A|B|embedding_A|embedding_B)\.\w+\.weight$": "the adapter's name in tensor names",
}
"""How names can differ among LoRA adapters of PEFT: a pattern, and what it is called."""


def by_start(start: bytes, formats: Iterable[Format]) -> Format | None:
    """The format whose first bytes these are, if any."""
    text = start.lstrip(b" \t\r\n\xef\xbb\xbf").lower()
    return next((one for one in formats if one.start and text.startswith(one.start)), None)


def by_keys(keys: Iterable[str]) -> Format | None:
    """The first format which one of these names of tensors gives away, if any."""
    names = "\n".join(keys)
    return next((one for one in FORMATS if one.keys and re.search(one.keys, names, re.MULTILINE)), None)


def by_config(config: LoraConfig) -> Format | None:
    """Another method of PEFT, which ``peft_type`` names, or another program's config, which has none."""
    if config.peft_type is not None:
        advice = "this is another PEFT method; engines serve LoRA only"
        return Format(f"an adapter of {config.peft_type}", advice) if config.peft_type in METHODS else None
    if {"lora_parameters", "lora_layers", "fine_tune_type"} & config.unknown.keys():
        return MLX
    if not config.unknown or config.given - {"base_model_name_or_path", "revision"}:
        return None
    return Format("another program's config", "get the adapter_config.json that was saved with the adapter")


def dialects(keys: Iterable[str]) -> tuple[str, ...]:
    """The naming dialects of an adapter's tensors, apart from PEFT's plain names."""
    names = "\n".join(keys)
    return tuple(title for pattern, title in DIALECTS.items() if re.search(pattern, names, re.MULTILINE))
