"""An adapter, read from its source: the config and the header by byte ranges, never the weights.

Its weights may be in shards, which only SGLang reads. Other formats than PEFT's are recognised
by their config, tensor names, file names and first bytes.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any

from lora_cli.adapter.adapter import Adapter, LoraPair, pair_up
from lora_cli.adapter.byte_ranges import FIRST_READ, check_stand_in, read_beginning, read_header
from lora_cli.adapter.config import CONFIG_CAP, LoraConfig, parse_config
from lora_cli.adapter.formats import FORMATS, Format, Found, by_config, by_keys, by_start
from lora_cli.adapter.names import Key, parse_keys
from lora_cli.adapter.safetensors import MOST_TENSORS, Header, TensorInfo
from lora_cli.errors import FormatError
from lora_cli.refs.adapter_files import CONFIG, MOST_HEADER, PICKLED, WEIGHTS
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.sources.files import Files

_cached_config = lru_cache(maxsize=16)(parse_config)
SHARD = re.compile(r"adapter_model-\d{5}-of-(\d{5})\.(safetensors|bin)", re.ASCII)

START = 1 << 16
"""Bytes that are read to recognise a file: GGUF starts with its metadata."""

MOST_HEADERS = 4
"""Headers of other safetensors files that are read to recognise their format."""

LONGEST_HEADER = 2 << 20
"""Bytes of such a header: a LoRA for images with its training log has some hundred thousand."""


def call_in_threads(threads: int, *parts: Callable[[], Any]) -> list[Any]:
    """The results of ``parts`` in order, of which up to ``threads`` are called at once."""
    if threads == 1:
        return [part() for part in parts]
    from lora_cli.parallel import map_in_threads

    return map_in_threads(lambda part: part(), parts, threads)


def read_adapter(
    files: Files,
    name: str,
    most_header: int = MOST_HEADER,
    *,
    threads: int = 1,
    weights: bool = True,
) -> Adapter:
    """Read config and header of the adapter in ``files``. ``name`` is the user's name for it.

    A header of over ``most_header`` bytes is not read, and none without ``weights``. With several ``threads`` both are
    read at once. Errors inside the adapter are not raised: they are in ``config_error`` and ``weights_error``.

    Raises:
        LoraCliError: what the source raises (no access, network, the file changed while it was read).
    """
    file, unread = weights_file(files), ""
    if file is not None and file.path != WEIGHTS and file.size is None and not file.defect:
        unread = f"{file.path}: its source does not report its size, so it cannot be read by ranges"
    read = None if unread else file

    def header_of() -> tuple[Header, FormatError | None]:
        try:
            return Header({}, {}) if read is None or not weights else _header(files, read, most_header), None
        except FormatError as error:
            return Header({}, {}), error

    (config, config_error), (header, weights_error) = call_in_threads(threads, lambda: _read_config(files), header_of)
    keys = parse_keys(header.tensors)
    pairs = pair_up(header.tensors, keys)
    return Adapter(
        name=name,
        files=files.revision.files,
        weight_files=(read.path,) if read is not None else (),
        config=config,
        config_error=config_error,
        tensors=header.tensors,
        weights_error=weights_error,
        keys=keys,
        pairs=pairs,
        metadata=header.metadata,
        foreign=_foreign_format(files, config, file, keys, pairs) if weights or file is None else None,
        unread=unread,
    )


def _read_config(files: Files) -> tuple[LoraConfig | None, FormatError | None]:
    file = files.file(CONFIG)
    if file is None:
        return None, None
    try:
        data = read_beginning(files, file, CONFIG_CAP + 1)  # so that parse_config sees that there is more
        check_stand_in(data, file)
        return (_cached_config if len(data) <= FIRST_READ else parse_config)(data, file.path), None
    except FormatError as error:
        return None, error


def weights_file(files: Files) -> RemoteFile | None:
    """The file from which PEFT would load the weights."""
    return next((file for file in map(files.file, (WEIGHTS, *PICKLED)) if file is not None), None)


def _header(files: Files, file: RemoteFile, most_header: int) -> Header:
    """The tensors of a safetensors file, or of a torch file, which is not unpickled. Raises as ``read_header``."""
    if file.path.endswith(".safetensors"):
        return read_header(files, file, most_header)
    from lora_cli.adapter.torchfile import read_tensors

    return Header(read_tensors(files, file), {})


def join_shards(files: Files, adapter: Adapter, most_header: int = MOST_HEADER) -> Adapter:
    """``adapter`` with the tensors of all its shards, or unchanged without shards; the safetensors ones of both kinds.

    The header of each shard may have at most ``most_header`` bytes.

    Raises:
        FormatError: a shard is missing or malformed, or two hold one tensor.
        LoraCliError: what the source raises.
    """
    found = [(match[2], file.path, int(match[1]), file) for file in files if (match := SHARD.fullmatch(file.path))]
    kind = max((one[0] for one in found), default="")
    found = sorted((one for one in found if one[0] == kind), key=lambda one: one[1])
    if adapter.weight_files or not found:
        return adapter
    _, first, total, _ = found[0]
    paths = tuple(path for _, path, _, _ in found)
    if paths != tuple(f"adapter_model-{number:05}-of-{total:05}.{kind}" for number in range(1, total + 1)):
        raise FormatError(f"{len(paths)} of {total} shards found", where=first, hint="fetch or copy all of them")
    tensors: dict[str, TensorInfo] = {}
    for _, path, _, file in found:
        for name, tensor in _header(files, file, most_header).tensors.items():
            if name in tensors:
                raise FormatError(f"{name} is also in {tensors[name].file}", where=path)
            tensors[name] = tensor
        if len(tensors) > MOST_TENSORS:
            raise FormatError(f"the shards have over {MOST_TENSORS} tensors, more than any adapter", where=path)
    keys = parse_keys(tensors)
    pairs = pair_up(tensors, keys)
    return replace(adapter, weight_files=paths, tensors=tensors, keys=keys, pairs=pairs, foreign=None, unread="")


def _foreign_format(
    files: Files,
    config: LoraConfig | None,
    weights: RemoteFile | None,
    keys: Mapping[str, Key],
    pairs: Mapping[str, LoraPair],
) -> Found | None:
    """The format that this is instead of PEFT's LoRA; None if it is LoRA, or unknown.

    Raises:
        LoraCliError: what the source raises.
    """

    def guesses() -> Iterator[tuple[Format | None, str]]:
        by_its_config = by_config(config) if config is not None else None
        if config is not None and config.peft_type is not None:
            yield by_its_config, CONFIG
        if weights is None:
            others = [file for file in files if file.path.endswith(".safetensors") and not file.defect]
            for file in others[:MOST_HEADERS]:
                with suppress(FormatError):
                    names = read_header(files, file, LONGEST_HEADER).tensors
                    if not any(".lora_A." in name and name.startswith("base_model.") for name in names):
                        yield by_keys(names), file.path
            for file in (file for file in files if not file.defect):
                named = [one for one in FORMATS if one.files and re.fullmatch(one.files, file.path, re.ASCII)]
                if any(one.start for one in named):
                    yield by_start(read_beginning(files, file, START), named), file.path
                elif named:
                    yield named[0], file.path
        elif keys:
            # With PEFT's prefix and LoRA factors it is no other format.
            if not pairs or not any(key.prefix for key in keys.values()):
                yield by_keys(keys), weights.path
        elif not weights.defect:
            yield by_start(read_beginning(files, weights, START), FORMATS), weights.path
        if not pairs:
            yield by_its_config, CONFIG

    return next((Found(recognised, file) for recognised, file in guesses() if recognised is not None), None)
