"""A base model, read from its source: its config, else the headers of its checkpoint. Never weights."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from lora_cli import parse
from lora_cli.adapter.byte_ranges import FIRST_READ, read_beginning, read_header
from lora_cli.adapter.safetensors import Header, TensorInfo, header_length, parse_header
from lora_cli.base.base_model import BaseModel
from lora_cli.base.families import UnknownArchitecture, base_from_config
from lora_cli.errors import FormatError, MachineError, NotFound
from lora_cli.refs.adapter_files import BASE_CONFIG, BASE_CONFIG_CAP
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.sources.files import Files
from lora_cli.text import shown

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

INDEX_CAP = 64 << 20
"""Bytes of an index; that of a model with 100 000 expert tensors has 10 MiB."""
MAX_SHARDS = 4096
MAX_TENSORS = 1_000_000
HEADERS_AT_ONCE = 8

Fallback = Callable[[Mapping[str, Any]], BaseModel]
"""Builds a base model from a config whose family has no table here."""


def read_base(files: Files, name: str, *, fallback: Fallback | None = None) -> BaseModel:
    """The base model in ``files``: from ``config.json``, else from the headers of ``model.safetensors``.

    Headers (of a single file, or of the shards in its index) are read only when there is no config or its family has no
    table. ``fallback`` is called with the config when the headers are not enough, either. Only the config, the index
    and header ranges are read, in bounded memory.

    Raises:
        NotFound: there is neither a config nor a readable checkpoint.
        UnknownArchitecture: there is a config of an unknown family, no checkpoint, and no ``fallback``.
        FormatError: config, index or header is malformed, or does not show the dimensions (some quantised ones).
        LoraCliError: what the source raises.
    """
    config = read_config(files)
    error: FormatError | None = None
    if config is not None:
        try:
            return base_from_config(config, name)
        except UnknownArchitecture as unknown:
            error = _with_hint(unknown)
    try:
        tensors = read_checkpoint(files)
        if tensors:
            from lora_cli.base.checkpoint import base_from_tensors

            return base_from_tensors(tensors, name, config)
    except FormatError as unreadable:
        error = unreadable
    if config is not None and fallback is not None:
        return fallback(config)
    raise error or _nothing_to_read(files, name)


def local_config(path: Path) -> bytes | None:
    """The bytes of a local base's config: ``path`` itself, or the ``config.json`` in it; None if it has none.

    Raises:
        FormatError: it is no regular file, no JSON object, or too large.
        MachineError: it cannot be read.
    """
    file = path / BASE_CONFIG if path.is_dir() else path
    if file.suffix == ".safetensors" or not file.exists():
        return None
    stream, _ = _open(file)
    with stream:
        data = stream.read(BASE_CONFIG_CAP + 1)
    _config(data, str(file))
    return data


def read_base_file(path: Path, *, fallback: Fallback | None = None) -> BaseModel:
    """The base model that one file describes: a ``config.json``, or a whole checkpoint as ``.safetensors``.

    Raises:
        NotFound: there is no such file.
        UnknownArchitecture: the config is of an unknown family, and there is no ``fallback``.
        FormatError: it is no regular file, or malformed.
        MachineError: it cannot be read.
    """
    if path.suffix == ".safetensors":
        from lora_cli.base.checkpoint import base_from_tensors

        stream, size = _open(path)
        with stream:
            header = stream.read(header_length(stream.read(8), size, str(path)))
        return base_from_tensors(parse_header(header, size, str(path)).tensors, str(path))
    config = read_config_file(path)
    try:
        return base_from_config(config, str(path))
    except UnknownArchitecture as unknown:
        if fallback is None:
            raise _with_hint(unknown) from None
        return fallback(config)


def read_config_file(path: Path) -> dict[str, Any]:
    """The fields of a ``config.json``.

    Raises:
        NotFound, MachineError: it does not exist, or cannot be read.
        FormatError: it is no regular file, no JSON object, or too large.
    """
    stream, _ = _open(path)
    with stream:
        return _config(stream.read(BASE_CONFIG_CAP + 1), str(path))


def _with_hint(unknown: UnknownArchitecture) -> UnknownArchitecture:
    way = "use a folder with the model's checkpoint, or pip install 'lora-cli[models]' for all of its architectures"
    hint = f"{unknown.hint} or {way}" if unknown.hint else way
    return UnknownArchitecture(unknown.reason, where=unknown.where, hint=hint)


def _open(path: Path) -> tuple[BinaryIO, int]:
    """A regular file, open, and its size in bytes."""
    try:
        # O_NONBLOCK: opening a FIFO without a writer would block forever.
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"there is no file {path}", hint="check the path of the base model") from error
    except OSError as error:
        raise MachineError(f"{path} cannot be read: {error.strerror}") from error
    status = os.fstat(opened)
    if not stat.S_ISREG(status.st_mode):
        os.close(opened)
        raise FormatError("is not a regular file", where=str(path), hint="use a config.json or a model's folder")
    return os.fdopen(opened, "rb"), status.st_size


def read_config(files: Files) -> dict[str, Any] | None:
    """The fields of the ``config.json`` in ``files``; None if there is none.

    Raises:
        FormatError: it is no JSON object, or too large.
        LoraCliError: what the source raises.
    """
    file = files.file(BASE_CONFIG)
    return None if file is None else _config(_read_small(files, file, BASE_CONFIG_CAP), file.path)


def _config(data: bytes, where: str) -> dict[str, Any]:
    if len(data) > BASE_CONFIG_CAP:
        raise FormatError(f"is longer than the limit of {BASE_CONFIG_CAP} bytes for a config", where=where)
    return parse.json_object(data, where)


def _read_small(files: Files, file: RemoteFile, cap: int) -> bytes:
    """A whole JSON file of at most ``cap`` bytes."""
    data = read_beginning(files, file, cap + 1)
    if len(data) > cap:
        raise FormatError(f"is longer than {cap} bytes", where=file.path)
    return data


def has_weights(directory: Path) -> bool:
    """Whether a directory has a base's weights as safetensors."""
    return (directory / WEIGHTS_FILE).is_file() or (directory / INDEX_FILE).is_file()


def read_checkpoint(files: Files) -> dict[str, TensorInfo]:
    """Every tensor of the checkpoint, from its headers; empty without a safetensors checkpoint.

    Raises:
        FormatError: index or header is malformed, or a shard is missing.
        LoraCliError: what the source raises.
    """
    single = files.file(WEIGHTS_FILE)
    if single is not None:
        return read_header(files, single).tensors
    index = files.file(INDEX_FILE)
    if index is None:
        return {}
    shard_of = weight_map(_read_small(files, index, INDEX_CAP))
    shards = _shards(files, shard_of)
    tensors: dict[str, TensorInfo] = {}
    for header in _headers(files, shards):
        # If two shards have a tensor of the same name, that of the index counts, as in transformers.
        tensors |= {
            name: tensor for name, tensor in header.tensors.items() if shard_of.get(name, tensor.file) == tensor.file
        }
        if len(tensors) > MAX_TENSORS:
            raise FormatError(f"lists over {MAX_TENSORS} tensors, over the limit", where=INDEX_FILE)
    missing = next((name for name in shard_of if name not in tensors), None)
    if missing is not None:
        raise FormatError(
            f"{shard_of[missing]} does not contain {missing}, although the index lists it", where=INDEX_FILE
        )
    return tensors


def weight_map(data: bytes) -> dict[str, str]:
    """Tensor name → shard, from the bytes of an index.

    Raises:
        FormatError: it is no index, or lists more than ``MAX_SHARDS``.
    """
    entries = parse.required(parse.json_object(data, INDEX_FILE), "weight_map", INDEX_FILE)
    shard_of = parse.map_of(parse.text)(entries, f"{INDEX_FILE}: weight_map")
    if (count := len(set(shard_of.values()))) > MAX_SHARDS:
        raise FormatError(f"lists {count} shards, over the limit", where=INDEX_FILE)
    return shard_of


def _shards(files: Files, shard_of: Mapping[str, str]) -> list[RemoteFile]:
    """The shards, each once. Names are only looked up among the ``files``, so no path leads outside."""
    names = sorted(set(shard_of.values()))
    found = {file.path: file for file in files}
    for name in names:
        if name not in found:
            raise FormatError(f"the shard {shown(name)} is missing", where=INDEX_FILE)
        if found[name].defect:
            raise FormatError(found[name].defect, where=name)
    return [found[name] for name in names]


def _headers(files: Files, shards: Sequence[RemoteFile]) -> Iterator[Header]:
    """The shards' headers in order. Their first bytes are read concurrently; long headers one at a time."""
    from concurrent.futures import ThreadPoolExecutor

    def first_bytes(file: RemoteFile) -> bytes:
        return read_beginning(files, file, FIRST_READ)

    with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
        for start in range(0, len(shards), HEADERS_AT_ONCE):
            batch = shards[start : start + HEADERS_AT_ONCE]
            for file, first in zip(batch, pool.map(first_bytes, batch), strict=True):
                end = 8 + header_length(first[:8], file.size, file.path)
                if end <= len(first):
                    yield parse_header(first[8:end], file.size, file.path)
                else:
                    yield read_header(files, file)


def _nothing_to_read(files: Files, name: str) -> NotFound:
    paths = {file.path for file in files}
    hint = f"a base model is a folder with {BASE_CONFIG} or {WEIGHTS_FILE}"
    if "adapter_config.json" in paths:
        hint = "this is an adapter: use the model that it was trained on"
    elif any(path.endswith((".bin", ".pt", ".pth")) for path in paths):
        hint = f"pickled weights are not supported: add the model's {BASE_CONFIG}"
    elif any(path.endswith(".gguf") for path in paths):
        hint = f"GGUF is not supported: add the model's {BASE_CONFIG}"
    return NotFound(f"{name} contains neither {BASE_CONFIG} nor {WEIGHTS_FILE}", hint=hint)
