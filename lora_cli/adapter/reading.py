"""An adapter, read from its source: the config and the header by byte ranges, never the weights.

Its weights may be in shards, which only SGLang reads. Other formats than PEFT's are recognised
by their config, tensor names, file names and first bytes.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from lora_cli.adapter.adapter import (
    FORMATS,
    Adapter,
    Format,
    Found,
    by_config,
    by_keys,
    by_start,
    check_stand_in,
    pair_up,
)
from lora_cli.adapter.config import CONFIG_CAP, LoraConfig, parse_config
from lora_cli.adapter.names import parse_key
from lora_cli.adapter.safetensors import MOST_TENSORS, TensorInfo, header_length, parse_header
from lora_cli.errors import FormatError
from lora_cli.refs.adapter_files import CONFIG, MOST_HEADER, PICKLED, WEIGHTS
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.sources.files import Files, read_beginning, read_range

FIRST_READ = 1 << 17
"""Bytes of the first range of a weights file: the whole header of nearly every adapter, in one request."""

START = 1 << 8
"""Bytes that are read to recognise a file."""

MOST_HEADERS, LONGEST_HEADER = 4, 2 << 20
"""Headers of other safetensors files that are read to recognise their format, and their bytes: a LoRA for images with
its training log has some hundred thousand."""

SHARD = r"adapter_model-\d{5}-of-\d{5}\.(safetensors|bin)"

_cached_config = lru_cache(maxsize=16)(parse_config)


def call_in_threads(threads: int, *parts: Callable[[], Any]) -> list[Any]:
    """The results of ``parts`` in order, of which up to ``threads`` are called at once."""
    if threads == 1:
        return [part() for part in parts]
    from lora_cli.parallel import map_in_threads

    return map_in_threads(lambda part: part(), parts, threads)


def read_adapter(
    files: Files, name: str, most_header: int = MOST_HEADER, *, threads: int = 1, weights: bool = True
) -> Adapter:
    """Read config and header of the adapter in ``files``. ``name`` is the user's name for it.

    A header of over ``most_header`` bytes is not read, and none without ``weights``. With several ``threads`` both are
    read at once. Errors inside the adapter are not raised: they are in ``config_error`` and ``weights_error``.

    Raises:
        LoraCliError: what the source raises (no access, network, the file changed while it was read).
    """
    file = weights_file(files)

    def or_error(read: Callable[[], Any]) -> tuple[Any, FormatError | None]:
        try:
            return read(), None
        except FormatError as error:
            return None, error

    parts = (partial(_config, files), lambda: _tensors(files, file, most_header) if file and weights else {})
    (config, config_error), (tensors, weights_error) = call_in_threads(
        threads, *(partial(or_error, part) for part in parts)
    )
    paths = () if file is None else (file.path,)
    adapter = Adapter(name, files.revision.files, paths, config, config_error, {}, weights_error, {}, {})
    adapter = _holding(adapter, tensors or {})
    guesses = _guesses(files, adapter, file) if weights or file is None else ()
    return replace(adapter, foreign=next((Found(one, at) for one, at in guesses if one is not None), None))


def _holding(adapter: Adapter, tensors: dict[str, TensorInfo]) -> Adapter:
    keys = {name: parse_key(name) for name in tensors}
    return replace(adapter, tensors=tensors, keys=keys, pairs=pair_up(tensors, keys))


def _config(files: Files) -> LoraConfig | None:
    if (file := files.file(CONFIG)) is None:
        return None
    data = read_beginning(files, file, CONFIG_CAP + 1)  # so that parse_config sees that there is more
    check_stand_in(data, file)
    return _cached_config(data) if len(data) <= FIRST_READ else parse_config(data)


def weights_file(files: Files) -> RemoteFile | None:
    """The file from which PEFT would load the weights."""
    return next((file for file in map(files.file, (WEIGHTS, *PICKLED)) if file is not None), None)


def _tensors(files: Files, file: RemoteFile, most_header: int) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file, or of a torch file, which is not unpickled. Raises as ``read_header``."""
    if file.path.endswith(".safetensors"):
        return read_header(files, file, most_header)
    from lora_cli.adapter.torchfile import read_tensors

    return read_tensors(files, file)


def join_shards(files: Files, adapter: Adapter, most_header: int = MOST_HEADER) -> Adapter:
    """``adapter`` with the tensors of all its shards, or unchanged without shards; the safetensors ones of both kinds.

    The header of each shard may have at most ``most_header`` bytes.

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
        own = _tensors(files, file, most_header)
        if tensors.keys() & own.keys() or len(tensors) + len(own) > MOST_TENSORS:
            raise FormatError(f"has tensors of another shard, or all have over {MOST_TENSORS}", where=file.path)
        tensors |= own
    return _holding(replace(adapter, weight_files=tuple(file.path for file in shards), foreign=None), tensors)


def _guesses(files: Files, adapter: Adapter, weights: RemoteFile | None) -> Iterator[tuple[Format | None, str]]:
    """The formats that this may be instead of PEFT's LoRA, each with the file that it is known by; the first counts.

    Raises:
        LoraCliError: what the source raises.
    """
    by_its_config = by_config(adapter.config) if adapter.config is not None else None
    if adapter.config is not None and adapter.config.peft_type is not None:
        yield by_its_config, CONFIG
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
    if not adapter.pairs:
        yield by_its_config, CONFIG


def read_header(files: Files, file: RemoteFile, most: int = MOST_HEADER) -> dict[str, TensorInfo]:
    """The tensors in the header of a safetensors file, by one range, or two for a large one; at most ``most`` bytes.

    Raises:
        FormatError: the file cannot be read as plain bytes (``defect``), or its header is malformed or too large.
        LoraCliError: what the source raises.
    """
    first = read_beginning(files, file, FIRST_READ)
    check_stand_in(first, file)
    end = 8 + header_length(first[:8], file.size, file.path, most)
    header = first[8:end] + read_range(files, file, len(first), end)
    if 8 + len(header) < end:
        why = f"truncated: the header has {end - 8} bytes, but only {len(header)} are present"
        raise FormatError(why, where=file.path)
    return parse_header(header, file.size, file.path)
