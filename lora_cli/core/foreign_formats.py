"""Formats that can be found in place of a PEFT LoRA adapter, and how each is recognised: tables.

Sources of the layouts: PEFT 0.21 (``tuners/*/layer.py``), mlx-lm (``tuner/utils.py``), llama.cpp
(``convert_lora_to_gguf.py``), kohya-ss/sd-scripts (``networks/lora.py``), LyCORIS, diffusers
(``loaders/lora_base.py``), NeMo (``.nemo`` tar files), vLLM up to 0.31 (tensorizer), git-lfs and git-xet.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice


@dataclass(frozen=True, slots=True)
class Format:
    """One format. ``title`` says what it is ("a Kohya LoRA"), ``advice`` what to do with it.

    It is known by any of: ``files``, a pattern for a path; ``start``, how its first bytes begin (in small letters),
    with ``within`` somewhere in them; ``keys``, a pattern that is found in the name of a tensor.
    """

    name: str
    title: str
    advice: str
    files: str = ""
    start: tuple[bytes, ...] = ()
    within: bytes = b""
    keys: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A format, and the file that it was known by."""

    format: Format
    file: str


AGAIN = "download the file again from where the adapter was published"
IMAGES = "diffusers reads it with load_lora_weights(); engines for language models do not"

STAND_INS = (
    Format(
        "lfs-pointer",
        "a git-lfs pointer",
        "run git lfs pull in the clone, or fetch the adapter from the Hub",
        start=(b"version https://git-lfs.github.com/", b"version https://hawser.github.com/"),
    ),
    Format(
        "xet-pointer",
        "a Xet pointer",
        "run git xet checkout in the clone, or fetch the adapter from the Hub",
        start=(b"# xet version", b"version https://xetdata.com/"),
    ),
    Format("html", "a web page", f"{AGAIN}; a login or error page was saved", start=(b"<!doctype", b"<html")),
    Format("xml", "an XML response", f"{AGAIN}; a server's error was saved", start=(b"<?xml", b"<error")),
    Format(
        "message",
        "an error message",
        f"{AGAIN}; a server's error was saved",
        start=(b"entry not found", b"repository not found", b"access to model", b"invalid username", b'{"error"'),
    ),
)
"""Stand-ins for a file: neither a format of an adapter nor corrupt. Recognised by their first bytes."""

PICKLE = Format(
    "pickle",
    "a torch pickle under another name",
    "rename it to adapter_model.bin, or save it as safetensors",
    start=(b"pk\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cf\xf9"),
)
"""A stand-in only where safetensors belong: torch's zip file, or its legacy magic number."""

SHARDED = Format(
    "sharded",
    "a PEFT adapter in shards",
    "write all tensors into one adapter_model.safetensors: `lora-cli repair` does, or load_file() of each shard and "
    "save_file() of all",
    files=r"adapter_model-\d{5}-of-\d{5}\.(safetensors|bin)|adapter_model\.(safetensors|bin)\.index\.json",
)

FORMATS = (
    SHARDED,
    Format(
        "gguf-lora",
        "a GGUF LoRA for llama.cpp",
        "llama.cpp loads it with --lora; engines need the PEFT adapter that it was converted from",
        files=r".*\.gguf",
        start=(b"gguf",),
        within=b"adapter.lora.alpha",
    ),
    Format(
        "gguf",
        "a GGUF model for llama.cpp",
        "use the PEFT adapter; serve a full model as a model",
        files=r".*\.gguf",
        start=(b"gguf",),
    ),
    Format(
        "ggml",
        "a GGML LoRA for an old llama.cpp",
        "use the PEFT adapter that it was converted from",
        files=r".*ggml-adapter-model\.bin",
        start=(b"algg", b"ggla"),
    ),
    Format(
        "tensorizer",
        "an adapter in vLLM's tensorizer format",
        "vLLM reads it up to 0.31, and from Python only; use the PEFT adapter that it was made from",
        files=r"adapter_model\.tensors",
        start=(b"|tzr|",),
    ),
    Format(
        "nemo",
        "a NeMo checkpoint",
        "convert it to the Hugging Face format with NeMo's exporter",
        files=r".*\.nemo|(.*/)?model_weights(\.ckpt|/metadata\.json)",
    ),
    Format(
        "mlx",
        "an MLX LoRA",
        "transpose lora_a and lora_b, give them PEFT's names and write PEFT's config, or train with PEFT",
        files=r"(\d{7}_)?adapters\.(safetensors|npz)",
        keys=r"\.lora_[ab]$",
    ),
    Format(
        "kohya",
        "a Kohya LoRA for images",
        IMAGES,
        keys=r"^(lora_(unet|te\d?|prior|transformer)|lycoris)_|\.lora_(down|up)\.weight$",
    ),
    Format(
        "diffusers",
        "a diffusers LoRA for images",
        IMAGES,
        files=r"pytorch_lora_weights\.(safetensors|bin)",
        keys=r"^(unet|text_encoder(_\d)?|prior)\.|^(transformer\.)?(single_)?transformer_blocks\.",
    ),
    Format(
        "merged",
        "a full model",
        "serve it as a model, or use the adapter that was merged into it",
        files=r"(model|pytorch_model|consolidated)([-.]\d+(-of-\d+)?)?\.(safetensors|bin|pth)(\.index\.json)?",
        keys=r"^(model|transformer|gpt_neox|language_model|decoder|encoder|bert|roberta)\.(?!.*lora_).*\.weight$",
    ),
)
"""Other formats than PEFT's, in the order in which they are looked for."""

_METHOD_MARKS: Mapping[str, tuple[str, str]] = {
    "ADALORA": ("AdaLoRA", r"\.lora_E$"),
    "ADAMSS": ("AdaMSS", r"\.adamss_"),
    "ADAPTION_PROMPT": ("adaption prompts", r"\.adaption_(gate|prompt)$"),
    "BEFT": ("BEFT", r"\.beft_"),
    "BOFT": ("BOFT", r"\.boft_[Rs]"),
    "C3A": ("C3A", r"\.c3a_kernel"),
    "CARTRIDGE": ("Cartridges", ""),
    "CPT": ("context-aware prompt tuning", ""),
    "DEFT": ("DEFT", r"\.deft_[PR]"),
    "DELORA": ("DeLoRA", r"\.delora_"),
    "FOURIERFT": ("FourierFT", r"\.fourierft_spectrum"),
    "FROD": ("FRoD", r"\.frod_"),
    "GLORA": ("GLoRA", r"\.glora_"),
    "GRALORA": ("GraLoRA", r"\.gralora_"),
    "HIRA": ("HiRA", r"\.hira_[AB]"),
    "HRA": ("HRA", r"\.hra_u"),
    "IA3": ("IA3", r"\.ia3_l"),
    "LILY": ("Lily", r"\.lily_"),
    "LN_TUNING": ("LayerNorm tuning", r"\.ln_tuning_layers\."),
    "LOHA": ("LoHa", r"\.hada_[wt]"),
    "LOKR": ("LoKr", r"\.lokr_[wt]"),
    "MISS": ("MiSS", r"\.(miss|bone)_"),
    "MULTITASK_PROMPT_TUNING": ("multitask prompt tuning", r"^prefix_task_(cols|rows)$"),
    "OFT": ("OFT", r"\.oft_[rR]"),
    "OSF": ("OSF", r"\.osf_svd_params"),
    "PEANUT": ("PEANuT", r"\.peanut_"),
    "POLY": ("Poly", r"\.poly_(lora|router)"),
    "PREFIX_TUNING": ("prefix tuning", ""),
    "PROMPT_TUNING": ("prompt tuning", r"^prompt_embeddings$"),
    "P_TUNING": ("p-tuning", ""),
    "PSOFT": ("PSOFT", r"\.psoft_"),
    "PVERA": ("PVeRA", r"\.pvera_"),
    "RANDLORA": ("RandLoRA", r"\.randlora_"),
    "ROAD": ("RoAd", r"\.road_(theta|alpha)"),
    "SHADOW": ("Shadow", r"\.shadow_"),
    "SHIRA": ("SHiRA", r"\.shira_"),
    "SUPERTUNING": ("supertuning", r"\.supertuning_"),
    "TINYLORA": ("TinyLoRA", r"\.tinylora_"),
    "TRAINABLE_TOKENS": ("trainable tokens", ""),
    "UNILORA": ("UniLoRA", r"\.unilora_"),
    "VBLORA": ("VB-LoRA", r"\.vblora_"),
    "VERA": ("VeRA", r"\.vera_"),
    "WAVEFT": ("WaveFT", r"\.waveft_"),
    "XLORA": ("X-LoRA", r"\.xlora_|^classifier\."),
}
"""PEFT's other methods by ``peft_type``: what each is called, and a pattern for the names of its tensors."""

METHODS: Mapping[str, Format] = {
    peft_type: Format(
        peft_type.lower(),
        f"an adapter of {title}",
        "this is another PEFT method; engines serve LoRA only",
        keys=keys,
    )
    for peft_type, (title, keys) in _METHOD_MARKS.items()
}
"""The same, as formats."""

_MLX = next(one for one in FORMATS if one.name == "mlx")

CONFIGS: Mapping[frozenset[str], Format] = {
    **{frozenset({field}): _MLX for field in ("lora_parameters", "lora_layers", "fine_tune_type")},
    frozenset({"config", "model_class"}): Format(
        "adapterhub",
        "an adapter of AdapterHub",
        "its adapters library loads it; engines serve LoRA adapters of PEFT only",
    ),
    frozenset({"architectures", "model_type"}): Format(
        "model-config",
        "a model config named adapter_config.json",
        "get the adapter_config.json that was saved with the adapter; serve a full model as a model",
    ),
    frozenset({"format", "rank", "alpha"}): Format(
        "native",
        "a LoRA in another tool's format",
        "convert it to PEFT's format with the tool that wrote it, or train with PEFT",
    ),
}
"""Configs that have no ``peft_type``, by fields that one of them has and PEFT's have not."""

OF_ANY = frozenset({"base_model_name_or_path", "revision"})
"""PEFT's fields that other programs write, too."""

OTHER_CONFIG = Format(
    "other-config", "another program's config", "get the adapter_config.json that was saved with the adapter"
)
"""A config with other fields than PEFT's, and none that a LoRA has."""

DIALECTS: Mapping[str, str] = {
    r"\.(qkv_proj|gate_up_proj|query_key_value|Wqkv|W_pack|qkv|c_attn)\.": "fused projections",
    r"\.experts\.\d+\.": "one module for each expert",
    r"\.experts(\.base_layer)?\.lora_": "fused experts",
    r"_orig_mod\.": "names of torch.compile",
    r"_fsdp_wrapped_module\.": "names of FSDP",
    r"\.lora_(A|B|embedding_A|embedding_B)\.\w+\.weight$": "the adapter's name in tensor names",
}
"""How names can differ among LoRA adapters of PEFT: a pattern, and what it is called."""


MOST_KEYS, LONGEST_KEY = 4096, 256
"""Names of tensors that identify a format, and their characters: those of one format are alike."""


def by_start(start: bytes, formats: Iterable[Format]) -> Format | None:
    """The format whose first bytes these are, if any."""
    text = start.lstrip(b" \t\r\n\xef\xbb\xbf").lower()
    return next((one for one in formats if one.start and text.startswith(one.start) and one.within in start), None)


def by_keys(keys: Iterable[str]) -> Format | None:
    """The first format which one of these names of tensors gives away, if any."""
    names = "\n".join(name for name in islice(keys, MOST_KEYS) if len(name) <= LONGEST_KEY)
    formats = (*FORMATS, *METHODS.values())
    return next((one for one in formats if one.keys and re.search(one.keys, names, re.MULTILINE)), None)


def by_fields(fields: Collection[str], unknown: Collection[str]) -> Format | None:
    """The format whose config has these fields, of which PEFT has none that are ``unknown``, if any."""
    found = next((one for marks, one in CONFIGS.items() if marks <= {*fields}), None)
    is_nothing_of_lora = bool(unknown) and {*fields} - {*unknown} <= OF_ANY
    return OTHER_CONFIG if found is None and is_nothing_of_lora else found


def dialects(keys: Iterable[str]) -> tuple[str, ...]:
    """The naming dialects of an adapter's tensors, apart from PEFT's plain names."""
    names = "\n".join(keys)
    return tuple(title for pattern, title in DIALECTS.items() if re.search(pattern, names, re.MULTILINE))
