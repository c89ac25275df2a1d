"""What a folder holds where it holds no LoRA adapter in PEFT's format: by its config, its names, its first bytes."""

from collections.abc import Mapping

from lora_cli.core.adapter import LoraPair
from lora_cli.core.adapter_files import CONFIG
from lora_cli.core.formats import FORMATS, METHODS, Format, Found, by_fields, by_keys, by_path, by_start
from lora_cli.core.keys import Key
from lora_cli.core.lora_config import LoraConfig
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import FormatError
from lora_cli.reading.byte_ranges import read_beginning, read_header
from lora_cli.sources import Source

START = 1 << 16
"""Bytes of a file that are read to know it: GGUF has its metadata in front."""

MOST_HEADERS = 4
"""Headers of other safetensors files that are read to know what they are."""

LONGEST_HEADER = 2 << 20
"""Bytes of such a header: a LoRA for images with its training log has some hundred thousand."""


def recognise(
    source: Source,
    revision: Revision,
    config: LoraConfig | None,
    weights: RemoteFile | None,
    keys: Mapping[str, Key],
    pairs: Mapping[str, LoraPair],
) -> Found | None:
    """What this is instead of a LoRA adapter of PEFT; None where it is one, or nothing that is known.

    Raises:
        LoraCliError: what the source raises.
    """
    method = METHODS.get(config.peft_type or "") if config is not None else None
    if method is not None:
        return Found(method, CONFIG)
    found = _by_contents(source, revision, weights, keys, pairs)
    if found is None and config is not None and config.peft_type is None and not pairs:
        return _found(by_fields(config.given | config.unknown.keys()), CONFIG)
    return found


def _by_contents(
    source: Source,
    revision: Revision,
    weights: RemoteFile | None,
    keys: Mapping[str, Key],
    pairs: Mapping[str, LoraPair],
) -> Found | None:
    """By the names of tensors and files, and by their first bytes."""
    if weights is None:
        return _by_headers(source, revision) or _by_files(source, revision)
    if keys:
        # A name with PEFT's prefix and a factor of LoRA is none of another format's.
        known = any(key.prefix for key in keys.values()) and pairs
        return None if known else _found(by_keys(keys), weights.path)
    return (
        None
        if weights.defect
        else _found(by_start(read_beginning(source, revision, weights, START), FORMATS), weights.path)
    )


def _found(recognised: Format | None, file: str) -> Found | None:
    return None if recognised is None else Found(recognised, file)


def _by_headers(source: Source, revision: Revision) -> Found | None:
    """By the names in safetensors files that are not called as PEFT calls them."""
    others = [file for file in revision.files if file.path.endswith(".safetensors") and not file.defect]
    for file in others[:MOST_HEADERS]:
        try:
            names = read_header(source, revision, file, LONGEST_HEADER).tensors
        except FormatError:
            continue
        found = _found(by_keys(names), file.path)
        if found is not None and not any(".lora_A." in name and name.startswith("base_model.") for name in names):
            return found
    return None


def _by_files(source: Source, revision: Revision) -> Found | None:
    """By the names of files, and by their first bytes where a format has some of its own."""
    for file in revision.files:
        named = [one for one in FORMATS if by_path(file.path, (one,)) is not None]
        if not named or file.defect:
            continue
        if not any(one.start for one in named):
            return Found(named[0], file.path)
        found = _found(by_start(read_beginning(source, revision, file, START), named), file.path)
        if found is not None:
            return found
    return None
