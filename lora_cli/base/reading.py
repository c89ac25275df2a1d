"""A base model, read from its source: its config, else the headers of its checkpoint. Never weights."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lora_cli import parse
from lora_cli.adapter.byte_ranges import read_beginning, read_header
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.base.base_model import BaseModel
from lora_cli.base.families import UnknownArchitecture, base_from_config
from lora_cli.errors import FormatError, MachineError, NotFound
from lora_cli.refs.adapter_files import BASE_CONFIG, BASE_CONFIG_CAP
from lora_cli.sources.files import Files, files_at
from lora_cli.text import shown

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

INDEX_CAP = 16 << 20
"""Bytes of an index; that of a model with 100 000 expert tensors has 10 MiB."""
MAX_TENSORS = 1_000_000
HEADERS_AT_ONCE = 8

Fallback = Callable[[Mapping[str, Any]], BaseModel]
"""Builds a base model from a config of an unknown family."""


def read_base(place: Files | Path, name: str, *, fallback: Fallback | None = None) -> BaseModel:
    """The base model in ``place``: by its ``config.json``, else by the headers of ``model.safetensors``.

    Headers (of a single file, or of the shards in its index) are read only when there is no config or its family is
    unknown. ``fallback`` is called with the config when the headers are not enough, either. Only the config, the index
    and header ranges are read, in bounded memory. A path is that of one local file: a config, or a whole checkpoint.

    Raises:
        NotFound: there is neither a config nor a readable checkpoint.
        UnknownArchitecture: there is a config of an unknown family, no checkpoint, and no ``fallback``.
        FormatError: config, index or header is malformed, or does not show the dimensions (quantised ones).
        LoraCliError: what the source raises.
    """
    error: FormatError | None = None
    config: dict[str, Any] | None = None
    if isinstance(place, Files):
        config = read_config(place)
    elif place.suffix != ".safetensors":
        if (data := local_config(place)) is None:
            raise NotFound(f"there is no file {place}", hint="check the path of the base model")
        config = _object(data, str(place))
    if config is not None:
        try:
            return base_from_config(config, name)
        except UnknownArchitecture as unknown:
            way = "use a folder with the model's checkpoint, or pip install 'lora-cli[models]' for all architectures"
            hint = f"{unknown.hint} or {way}" if unknown.hint else way
            error = UnknownArchitecture(unknown.reason, where=unknown.where, hint=hint)
    try:
        tensors = dict[str, TensorInfo]()
        if isinstance(place, Files):
            tensors = read_checkpoint(place)
        elif config is None:
            tensors = read_checkpoint(files_at(place.parent), place.name)
        if tensors:
            from lora_cli.base.checkpoint import base_from_tensors

            return base_from_tensors(tensors, name, config)
    except FormatError as unreadable:
        error = unreadable
    if config is not None and fallback is not None:
        return fallback(config)
    raise error or NotFound(
        f"{name} contains neither {BASE_CONFIG} nor {WEIGHTS_FILE}",
        hint=f"a base model is a folder with its {BASE_CONFIG}, and no adapter; pickled weights and GGUF are not read",
    )


def read_config(files: Files) -> dict[str, Any] | None:
    """The fields of the ``config.json`` in ``files``; None if there is none.

    Raises:
        FormatError: it is no JSON object, or too large.
        LoraCliError: what the source raises.
    """
    file = files.file(BASE_CONFIG)
    return None if file is None else _object(read_beginning(files, file, BASE_CONFIG_CAP + 1), file.path)


def local_config(path: Path) -> bytes | None:
    """The bytes of a local base's config: ``path`` itself, or the ``config.json`` in it; None if it has none.

    Raises:
        FormatError: it is no JSON object, or too large.
        MachineError: it cannot be read.
    """
    file = path / BASE_CONFIG if path.is_dir() else path
    if file.suffix == ".safetensors" or not file.exists():
        return None
    try:
        with file.open("rb") as stream:
            data = stream.read(BASE_CONFIG_CAP + 1)
    except OSError as error:
        raise MachineError(f"{file} cannot be read: {error.strerror}") from error
    _object(data, str(file))
    return data


def _object(data: bytes, where: str, cap: int = BASE_CONFIG_CAP) -> dict[str, Any]:
    if len(data) > cap:
        raise FormatError(f"is longer than the limit of {cap} bytes", where=where)
    return parse.json_object(data, where)


def has_weights(directory: Path) -> bool:
    """Whether a directory has a base's weights as safetensors."""
    return (directory / WEIGHTS_FILE).is_file() or (directory / INDEX_FILE).is_file()


def read_checkpoint(files: Files, name: str = WEIGHTS_FILE) -> dict[str, TensorInfo]:
    """Every tensor of the checkpoint, from its headers; empty without a safetensors checkpoint.

    That is one file of this ``name``, or shards with an index in place of the usual one.

    Raises:
        FormatError: index or header is malformed, or a shard is missing.
        LoraCliError: what the source raises.
    """
    single = files.file(name)
    if single is not None:
        return read_header(files, single).tensors
    index = files.file(INDEX_FILE) if name == WEIGHTS_FILE else None
    if index is None:
        return {}
    from concurrent.futures import ThreadPoolExecutor

    shard_of = weight_map(read_beginning(files, index, INDEX_CAP + 1))
    names = sorted(set(shard_of.values()))
    # Names are only looked up among the files, so that no path leads outside.
    found = {file.path: file for file in files}
    if missing := [name for name in names if name not in found]:
        raise FormatError(f"the shard {shown(missing[0])} is missing", where=INDEX_FILE)
    tensors: dict[str, TensorInfo] = {}
    with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
        for start in range(0, len(names), HEADERS_AT_ONCE):
            batch = [found[name] for name in names[start : start + HEADERS_AT_ONCE]]
            for header in pool.map(partial(read_header, files), batch):
                # If two shards have a tensor of the same name, that of the index counts, as in transformers.
                own = {name: one for name, one in header.tensors.items() if shard_of.get(name, one.file) == one.file}
                tensors |= own
            if len(tensors) > MAX_TENSORS:
                raise FormatError(f"lists over {MAX_TENSORS} tensors, over the limit", where=INDEX_FILE)
    if lost := next((name for name in shard_of if name not in tensors), ""):
        raise FormatError(f"{shard_of[lost]} does not contain {lost}, although the index lists it", where=INDEX_FILE)
    return tensors


def weight_map(data: bytes) -> dict[str, str]:
    """Tensor name → shard, from the bytes of an index.

    Raises:
        FormatError: it is no index, or too large.
    """
    entries = parse.required(_object(data, INDEX_FILE, INDEX_CAP), "weight_map", INDEX_FILE)
    return parse.map_of(parse.text)(entries, f"{INDEX_FILE}: weight_map")
