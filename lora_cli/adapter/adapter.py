"""A parsed adapter: its config, its A/B pairs, and every other tensor, by name and shape."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from lora_cli.adapter.config import LoraConfig
from lora_cli.adapter.names import PAIR_PARTS, Key
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.errors import FormatError
from lora_cli.refs.snapshot import RemoteFile


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
TENSORIZER = "engines do not read it; use the PEFT adapter that it was made from"
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


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The two factors of one module's update ``s * B @ A``; either is None when the file lacks it.

    ``module`` is the path in the base model, without ``base_model.model.``.
    For a linear layer ``a`` is ``[r, d_in]`` and ``b`` is ``[d_out, r]``; for an embedding (``embedding=True``)
    ``a`` is ``[r, vocabulary]`` and ``b`` is ``[dim, r]``.
    """

    module: str
    a: TensorInfo | None
    b: TensorInfo | None
    embedding: bool = False

    @property
    def factors(self) -> tuple[TensorInfo, ...]:
        """A and B, as far as they are there."""
        return tuple(factor for factor in (self.a, self.b) if factor is not None)

    @property
    def named(self) -> dict[str, TensorInfo]:
        """The same by PEFT's names for them: ``lora_A`` and ``lora_B``, of an embedding ``lora_embedding_A`` and B."""
        infix = "embedding_" if self.embedding else ""
        known = {f"lora_{infix}A": self.a, f"lora_{infix}B": self.b}
        return {name: factor for name, factor in known.items() if factor is not None}

    @property
    def widths(self) -> tuple[int | None, int | None]:
        """``d_in`` from A ``[r, d_in]`` and ``d_out`` from B ``[d_out, r]``; None for one that is missing or flat."""
        d_in = self.a.shape[1] if self.a is not None and len(self.a.shape) == 2 else None
        d_out = self.b.shape[0] if self.b is not None and len(self.b.shape) == 2 else None
        return d_in, d_out

    @property
    def rank(self) -> int | None:
        """The rank that the tensors themselves have, from A, else from B."""
        if self.a is not None and len(self.a.shape) == 2:
            return self.a.shape[0]
        return self.b.shape[1] if self.b is not None and len(self.b.shape) == 2 else None


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter, read. Nothing in it was executed, and no weight was loaded.

    ``name`` is how the user called it. ``config`` is None when there is none or it cannot be read; then
    ``config_error`` says why (None for "no such file"). The same for ``tensors`` (by full name) and ``weights_error``.
    ``weight_files`` are the files that ``tensors`` come from, in order, even when they hold none or cannot be read.
    ``keys`` has one parsed name per tensor. ``foreign`` is what it was recognised as where it is no LoRA adapter in
    PEFT's format.
    """

    name: str
    files: tuple[RemoteFile, ...]
    weight_files: tuple[str, ...]
    config: LoraConfig | None
    config_error: FormatError | None
    tensors: Mapping[str, TensorInfo]
    weights_error: FormatError | None
    keys: Mapping[str, Key]
    pairs: Mapping[str, LoraPair]
    foreign: Found | None = None

    def __repr__(self) -> str:
        return f"Adapter({self.name!r}, {len(self.pairs)} modules, {len(self.tensors)} tensors)"

    @property
    def has_weights(self) -> bool:
        """Whether the names and shapes of the tensors are known, and are in PEFT's format."""
        return self.foreign is None and self.weights_error is None and bool(self.weight_files)

    @property
    def pickled(self) -> bool:
        """Whether the weights that were read are a pickle."""
        return any(not path.endswith(".safetensors") for path in self.weight_files)

    @property
    def stray_weights(self) -> list[str]:
        """Safetensors files in the adapter's own folder next to its weights, which some engines load, too."""
        if self.pickled or not self.weight_files:
            return []
        paths = [file.path for file in self.files if file.path.endswith(".safetensors") and "/" not in file.path]
        return [path for path in paths if path not in self.weight_files]


def pair_up(tensors: Mapping[str, TensorInfo], keys: Mapping[str, Key]) -> dict[str, LoraPair]:
    """The A/B pairs by module path, in the order of their first tensor.

    When two names mean the same factor (``lora_A.weight`` and ``lora_A.default.weight``), the canonical one counts.
    An embedding's factors make a pair of their own only where the module has no linear ones.
    """
    factors: dict[str, dict[str, TensorInfo]] = {key.module: {} for key in keys.values() if key.part in PAIR_PARTS}
    for name, key in sorted(keys.items(), key=lambda item: not item[1].canonical):
        if key.part in PAIR_PARTS:
            factors[key.module].setdefault(key.part, tensors[name])
    pairs = {}
    for module, found in factors.items():
        embedding = not {"lora_A", "lora_B"} & found.keys()
        infix = "embedding_" if embedding else ""
        pairs[module] = LoraPair(module, found.get(f"lora_{infix}A"), found.get(f"lora_{infix}B"), embedding)
    return pairs


def check_stand_in(first: bytes, file: RemoteFile) -> None:
    """Checks that the file is no placeholder: a pointer file, or a web page.

    Raises:
        FormatError: it is one.
    """
    found = by_start(first, STAND_INS)
    if found is not None:
        raise FormatError(f"is {found.title}, not the file itself", where=file.path, hint=found.advice)
