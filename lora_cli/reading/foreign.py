"""What a folder holds where it holds no LoRA adapter in PEFT's format: by its config, its names, its first bytes."""

from collections.abc import Iterator, Mapping

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

    def guesses() -> Iterator[tuple[Format | None, str]]:
        if config is not None:
            yield METHODS.get(config.peft_type or ""), CONFIG
        if weights is None:
            yield from _by_headers(source, revision)
            yield from _by_files(source, revision)
        elif keys:
            # A name with PEFT's prefix and a factor of LoRA is none of another format's.
            if not pairs or not any(key.prefix for key in keys.values()):
                yield by_keys(keys), weights.path
        elif not weights.defect:
            yield by_start(read_beginning(source, revision, weights, START), FORMATS), weights.path
        if config is not None and config.peft_type is None and not pairs:
            yield by_fields(config.given | config.unknown.keys()), CONFIG

    return next((Found(recognised, file) for recognised, file in guesses() if recognised is not None), None)


def _by_headers(source: Source, revision: Revision) -> Iterator[tuple[Format | None, str]]:
    """By the names in safetensors files that are not called as PEFT calls them."""
    others = [file for file in revision.files if file.path.endswith(".safetensors") and not file.defect]
    for file in others[:MOST_HEADERS]:
        try:
            names = read_header(source, revision, file, LONGEST_HEADER).tensors
        except FormatError:
            continue
        if not any(".lora_A." in name and name.startswith("base_model.") for name in names):
            yield by_keys(names), file.path


def _by_files(source: Source, revision: Revision) -> Iterator[tuple[Format | None, str]]:
    """By the names of files, and by their first bytes where a format has some of its own."""
    for file in revision.files:
        named = [one for one in FORMATS if by_path(file.path, (one,)) is not None]
        if named and not file.defect:
            has_start = any(one.start for one in named)
            first = by_start(read_beginning(source, revision, file, START), named) if has_start else named[0]
            yield first, file.path
