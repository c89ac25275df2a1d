"""A base model, read from its source by its ``config.json``. Never weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_cli import parse
from lora_cli.base.base_model import BaseModel
from lora_cli.base.families import UnknownArchitecture, base_from_config
from lora_cli.errors import FormatError, MachineError, NotFound
from lora_cli.refs.adapter_files import BASE_CONFIG, BASE_CONFIG_CAP
from lora_cli.sources.files import Files, read_beginning


def base_of(config: Mapping[str, Any], name: str) -> BaseModel:
    """The base model of a config; of a family that is not ours as transformers builds it, if that is installed.

    Raises:
        MissingExtra: transformers or torch is not installed.
        UnknownArchitecture: transformers does not know the family either.
        FormatError: it is no model's config.
    """
    try:
        return base_from_config(config, name)
    except UnknownArchitecture:
        from lora_cli.base.from_transformers import base_from_transformers

        return base_from_transformers(config)


def read_base(place: Files | Path, name: str) -> BaseModel:
    """The base model by the ``config.json`` in ``place``, or by a config that is a local file.

    Raises:
        NotFound: there is no config.
        FormatError: it is malformed, too large, or no model's; else as ``base_of``.
        LoraCliError: what the source raises.
    """
    if isinstance(place, Files):
        config = read_config(place)
    else:
        config = None if (data := local_config(place)) is None else parse.json_object(data, str(place))
    if config is None:
        hint = "a base model is a folder with its config.json, and no adapter"
        raise NotFound(f"{name} contains no {BASE_CONFIG}", hint=hint)
    return base_of(config, name)


def read_config(files: Files) -> dict[str, Any] | None:
    """The fields of the ``config.json`` in ``files``; None if there is none.

    Raises:
        FormatError: it is no JSON object, or too large.
        LoraCliError: what the source raises.
    """
    file = files.file(BASE_CONFIG)
    return None if file is None else json_object(read_beginning(files, file, BASE_CONFIG_CAP + 1), file.path)


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
    json_object(data, str(file))
    return data


def json_object(data: bytes, where: str, cap: int = BASE_CONFIG_CAP) -> dict[str, Any]:
    """The object in a JSON text of at most ``cap`` bytes.

    Raises:
        FormatError: it is none, or longer.
    """
    if len(data) > cap:
        raise FormatError(f"is longer than the limit of {cap} bytes", where=where)
    return parse.json_object(data, where)
