"""A base model, read from its source by its ``config.json``. Never weights."""

from pathlib import Path
from typing import Any

from lora_cli import parse
from lora_cli.base.base_model import BaseModel
from lora_cli.base.families import base_from_config
from lora_cli.errors import FormatError, MachineError, NotFound
from lora_cli.refs.adapter_files import BASE_CONFIG, BASE_CONFIG_CAP
from lora_cli.sources.files import Files, read_beginning


def read_base(place: Files | Path, name: str) -> BaseModel:
    """The base model by the ``config.json`` in ``place``, or by a config that is a local file.

    Raises:
        NotFound: there is no config.
        FormatError: it is malformed, too large, or no model's; else as ``base_from_config``.
        LoraCliError: what the source raises.
    """
    if isinstance(place, Path):
        data = local_config(place)
    else:
        file = place.file(BASE_CONFIG)
        data = None if file is None else read_beginning(place, file, BASE_CONFIG_CAP + 1)
    if data is None:
        hint = "a base model is a folder with its config.json, and no adapter"
        raise NotFound(f"{name} contains no {BASE_CONFIG}", hint=hint)
    where = str(place) if isinstance(place, Path) else BASE_CONFIG
    return base_from_config(_fields(data, where), name)


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
    _fields(data, str(file))
    return data


def _fields(data: bytes, where: str) -> dict[str, Any]:
    if len(data) > BASE_CONFIG_CAP:
        raise FormatError(f"is longer than the limit of {BASE_CONFIG_CAP} bytes", where=where)
    return parse.json_object(data, where)
