"""What is read of an adapter: its config, its header, and the small files next to them; or what it is instead.

Config and header are read by byte ranges, the weights never; nothing is rendered, imported or run. Weights may be in
shards, which only SGLang reads. Other formats than PEFT's are recognised by their config, tensor names, file names and
first bytes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from lora_cli.adapter.adapter import Adapter, Format, pair_up, parse_key
from lora_cli.adapter.config import CONFIG_CAP, parse_config
from lora_cli.adapter.safetensors import MOST_TENSORS, TensorInfo, parse_header
from lora_cli.errors import FormatError, TooLarge
from lora_cli.parse import integer, json_object, json_value, map_of
from lora_cli.refs.adapter_files import CONFIG, MOST_HEADER, PICKLED, WEIGHTS
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.sources.files import Files, read_beginning, read_range
from lora_cli.text import shown

AGAIN = "download the file again from where the adapter was published; a login or error page was saved"
CLONE = "in the clone, or fetch the adapter from the Hub"
STAND_INS = (
    Format("a git-lfs pointer", f"run git lfs pull {CLONE}", start=(b"version https://git-lfs.github.com/",)),
    Format("a Xet pointer", f"run git xet checkout {CLONE}", start=(b"# xet version", b"version https://xetdata.com/")),
    Format("a web page", AGAIN, start=(b"<!doctype", b"<html")),
)
"""Stand-ins for a file: neither a format of an adapter nor corrupt. Recognised by their first bytes."""

SHARD = r"adapter_model-\d{5}-of-\d{5}\.(safetensors|bin)"
SHARDED = Format(
    "a PEFT adapter in shards",
    "write all tensors into one adapter_model.safetensors: `lora-cli repair` does, or load_file() of each shard and "
    "save_file() of all",
    files=SHARD + r"|adapter_model\.(safetensors|bin)\.index\.json",
)
GGUF = "use the PEFT adapter that it was made from: llama.cpp loads a GGUF LoRA with --lora, engines do not"
TENSORIZER = "engines do not read it; use the PEFT adapter that it was made from"
IMAGES = "diffusers reads it with load_lora_weights(); engines for language models do not"
FORMATS = (
    SHARDED,
    Format("a GGUF model for llama.cpp", GGUF, r".*\.gguf", (b"gguf",)),
    Format("an adapter in vLLM's tensorizer format", TENSORIZER, r"adapter_model\.tensors", (b"|tzr|",)),
    Format(
        "an MLX LoRA",
        "transpose lora_a and lora_b, give them PEFT's names and write PEFT's config, or train with PEFT",
        files=r"(\d{7}_)?adapters\.(safetensors|npz)",
        keys=r"\.lora_[ab]$",
    ),
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

FIRST_READ = 1 << 17
"""Bytes of the first range of a file: the whole header of nearly every adapter, in one request."""

START = 1 << 8
"""Bytes that are read to recognise a file."""

MOST_HEADERS, LONGEST_HEADER = 4, 2 << 20
"""Headers of other safetensors files that are read to recognise their format, and their bytes."""


def by_start(start: bytes, formats: Iterable[Format]) -> Format | None:
    """The format whose first bytes these are, if any."""
    text = start.lstrip(b" \t\r\n\xef\xbb\xbf").lower()
    return next((one for one in formats if one.start and text.startswith(one.start)), None)


def by_keys(keys: Iterable[str]) -> Format | None:
    """The first format which one of these names of tensors gives away, if any."""
    names = "\n".join(keys)
    return next((one for one in FORMATS if one.keys and re.search(one.keys, names, re.MULTILINE)), None)


def check_stand_in(first: bytes, file: RemoteFile) -> None:
    """Checks by its first bytes that the file is no placeholder: a pointer file, or a web page.

    Raises:
        FormatError: it is one.
    """
    if (found := by_start(first, STAND_INS)) is not None:
        raise FormatError(f"is {found.title}, not the file itself", where=file.path, hint=found.advice)


def weights_file(files: Files) -> RemoteFile | None:
    """The file from which PEFT would load the weights."""
    return next((file for file in map(files.file, (WEIGHTS, *PICKLED)) if file is not None), None)


def read_adapter(files: Files, name: str, *, weights: bool = True) -> Adapter:
    """Read config and header of the adapter in ``files``. ``name`` is the user's name for it.

    No header is read without ``weights``. Errors inside the adapter are not raised: they are in ``config_error`` and
    ``weights_error``.

    Raises:
        LoraCliError: what the source raises (no access, network, the file changed while it was read).
    """
    config, config_error, weights_error = None, None, None
    try:
        if (listed := files.file(CONFIG)) is not None:
            data = read_beginning(files, listed, CONFIG_CAP + 1)  # so that parse_config sees that there is more
            check_stand_in(data, listed)
            config = parse_config(data)
    except FormatError as error:
        config_error = error
    file, header = weights_file(files), dict[str, TensorInfo]()
    try:
        header = read_tensors(files, file) if file and weights else {}
    except FormatError as error:
        weights_error = error
    paths, keys = () if file is None else (file.path,), {one: parse_key(one) for one in header}
    own = config_error, header, weights_error, keys, pair_up(header, keys)
    adapter = Adapter(name, files.revision.files, paths, config, *own)
    guesses = _guesses(files, adapter, file) if weights or file is None else ()
    return replace(adapter, foreign=next((one._replace(file=at) for one, at in guesses if one is not None), None))


def read_tensors(files: Files, file: RemoteFile) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file, or of a torch file, which is not unpickled.

    Raises:
        FormatError: it is malformed, has a header of over ``MOST_HEADER`` bytes, or is a stand-in for the file.
        LoraCliError: what the source raises.
    """
    if file.path.endswith(".safetensors"):
        return read_header(files, file)
    from lora_cli.adapter.torchfile import read_torch_file

    try:
        return read_torch_file(files, file)
    except FormatError:
        check_stand_in(b"" if file.defect else read_beginning(files, file, START), file)
        raise


def read_header(files: Files, file: RemoteFile, most: int = MOST_HEADER) -> dict[str, TensorInfo]:
    """The tensors in the header of a safetensors file, which may have ``most`` bytes: by one range, or by two.

    Raises:
        FormatError: it cannot be read as plain bytes (``defect``), is a stand-in, or its header malformed or too large.
        LoraCliError: what the source raises.
    """
    first, where = read_beginning(files, file, FIRST_READ), file.path
    check_stand_in(first, file)
    end, size = 8 + int.from_bytes(first[:8], "little"), len(first) if len(first) < 8 else file.size
    if size is not None and end > size:
        raise FormatError(f"truncated, or not safetensors: its header ends at byte {end} of {size}", where=where)
    if end - 8 > most:
        raise FormatError(f"its header has {end - 8} bytes, but {most} are allowed", where=where)
    header = first[8:end] + read_range(files, file, len(first), end)
    if 8 + len(header) < end:
        why = f"truncated: the header has {end - 8} bytes, but only {len(header)} are present"
        raise FormatError(why, where=where)
    return parse_header(header, file.size, where)


def join_shards(files: Files, adapter: Adapter) -> Adapter:
    """``adapter`` with the tensors of all its shards, or unchanged without shards; the safetensors ones of both kinds.

    Raises:
        FormatError: a shard is missing or malformed, or two hold one tensor.
        LoraCliError: what the source raises.
    """
    found = sorted((file for file in files if re.fullmatch(SHARD, file.path, re.ASCII)), key=lambda file: file.path)
    shards = [file for file in found if file.path.endswith(".safetensors")] or found
    if adapter.weight_files or not shards:
        return adapter
    tensors: dict[str, TensorInfo] = {}
    for number, file in enumerate(shards, 1):
        if f"-{number:05}-of-{len(shards):05}." not in file.path:
            raise FormatError("not all shards are there", where=file.path, hint="fetch or copy all of them")
        own = read_tensors(files, file)
        if tensors.keys() & own.keys() or len(tensors) + len(own) > MOST_TENSORS:
            raise FormatError(f"has tensors of another shard, or all have over {MOST_TENSORS}", where=file.path)
        tensors |= own
    paths, keys = tuple(file.path for file in shards), {name: parse_key(name) for name in tensors}
    pairs = pair_up(tensors, keys)
    return replace(adapter, weight_files=paths, foreign=None, tensors=tensors, keys=keys, pairs=pairs)


def _guesses(files: Files, adapter: Adapter, weights: RemoteFile | None) -> Iterator[tuple[Format | None, str]]:
    """The formats that this may be instead of PEFT's LoRA, each with the file that it is known by; the first counts.

    Raises:
        LoraCliError: what the source raises.
    """
    config = adapter.config
    if config is not None and config.peft_type in METHODS:
        advice = "this is another PEFT method; engines serve LoRA only"
        yield Format(f"an adapter of {config.peft_type}", advice), CONFIG
    if weights is None:
        readable = [file for file in files if not file.defect]
        for file in [file for file in readable if file.path.endswith(".safetensors")][:MOST_HEADERS]:
            with suppress(FormatError):
                names = read_header(files, file, LONGEST_HEADER)
                if not any(".lora_A." in name and name.startswith("base_model.") for name in names):
                    yield by_keys(names), file.path
        for file in readable:
            for one in (one for one in FORMATS if one.files and re.fullmatch(one.files, file.path, re.ASCII)):
                yield by_start(read_beginning(files, file, START), [one]) if one.start else one, file.path
    elif adapter.keys:
        # With PEFT's prefix and LoRA factors it is no other format.
        if not adapter.pairs or not any(key.prefix for key in adapter.keys.values()):
            yield by_keys(adapter.keys), weights.path
    elif not weights.defect:
        yield by_start(read_beginning(files, weights, START), FORMATS), weights.path
    if config is not None and config.unknown and not config.given - {"base_model_name_or_path", "revision"}:
        advice = "get the adapter_config.json that was saved with the adapter"
        yield None if adapter.pairs else Format("another program's config", advice), CONFIG


CAP = 8 << 20
"""Bytes of all small files: the added tokens of large vocabularies have some megabytes."""

ADDED_TOKENS = "added_tokens.json"
READ = frozenset({
    *("tokenizer_config.json", ADDED_TOKENS, "chat_template.jinja", "chat_template.json", "processor_config.json"),
    *("config.json", "preprocessor_config.json", "generation_config.json"),
})  # fmt: skip
"""Files with chat templates, and configs that transformers reads next to an adapter and that may name classes to import
(``CODE_FIELDS``)."""
CODE_FIELDS = ("auto_map", "custom_pipelines", "custom_generate")
MORE_TEMPLATES = re.compile(r"additional_chat_templates/.*\.jinja", re.DOTALL)

MAYBE_PICKLED = re.compile(
    r"\.(?:bin|pt|pth|ckpt|th|torch|pkl|pickle|p|pk|pckl|pcl|cpkl|dill|sav|(npy|npz|nemo|joblib|jbl|distcp|metadata))"
    r"((?:\.(?:gz|z|bz2|xz|lzma|lz4|zst|tar)){0,4})$",
    re.IGNORECASE | re.ASCII,
)
"""Endings of files for ``torch.load``, ``pickle.load`` and the like. The groups are those of what may contain pickles,
in which they are not looked for."""


@dataclass(frozen=True, slots=True)
class Companions:
    """The small files next to an adapter's weights.

    ``templates`` maps where a chat template is (``"tokenizer_config.json: chat_template"``) to its text, ``code`` where
    classes are named that a loader would import to what is named there. ``added_tokens`` are the tokens of
    ``added_tokens.json`` with their ids, None without that file. ``unread`` says of a file why it could not be read:
    ``TooLarge`` if all have more than those of any adapter. ``pickles`` maps files with a pickle's name to what is
    wrong with them; ``pickles_left`` says which could not be looked into.
    """

    templates: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    added_tokens: Mapping[str, int] | None = None
    unread: Mapping[str, FormatError] = field(default_factory=dict)
    pickles: Mapping[str, str] = field(default_factory=dict)
    pickles_left: str = ""


def read_companions(files: Files) -> Companions:
    """The files next to an adapter's weights. Errors in a file are not raised: they are in ``unread``.

    Raises:
        LoraCliError: what the source raises.
    """
    templates, code, unread, left = dict[str, str](), dict[str, str](), dict[str, FormatError](), CAP
    added_tokens: Mapping[str, int] | None = None
    for file in (file for file in files if file.path in READ or MORE_TEMPLATES.fullmatch(file.path)):
        try:
            if (file.size or 0) > left or len(data := read_beginning(files, file, left + 1)) > left:
                raise TooLarge(f"is over the limit of {CAP} bytes for all such files")
            left -= len(data)
            if file.path.endswith(".jinja"):
                templates[file.path] = data.decode(errors="replace")
                continue
            check_stand_in(data, file)
            if file.path == ADDED_TOKENS:
                added_tokens = map_of(integer)(json_value(data, file.path), file.path)
                continue
            fields = json_object(data, file.path)
            templates |= _templates(fields.get("chat_template"), f"{file.path}: chat_template")
            code |= {f"{file.path}: {name}": shown(fields[name]) for name in CODE_FIELDS if fields.get(name)}
        except FormatError as error:
            unread[file.path] = error
    weights, steps, wrong, packed = weights_file(files), count(), dict[str, str](), list[str]()
    for file in files:
        found = None if file.defect or file == weights else MAYBE_PICKLED.search(file.path)
        if found is None:
            continue
        from lora_cli.adapter.torchfile import check_pickle

        try:
            if any(found.groups()) or file.size is None or not check_pickle(files, file, steps):
                packed.append(file.path)
        except FormatError as error:
            wrong[file.path] = error.reason
    more = f" and {len(packed) - 1} more" if len(packed) > 1 else ""
    why = f"{packed[0]}{more} may contain pickles, which are not looked for in such files" if packed else ""
    return Companions(templates, code, added_tokens, unread, wrong, why)


def _templates(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Location and text of each chat template: a string, or a list or mapping of named ones (transformers)."""
    if isinstance(value, str):
        yield where, value
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        text = item.get("template") if isinstance(item, dict) else item
        if isinstance(text, str):
            yield f"{where}[{key}]", text
