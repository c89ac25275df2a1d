"""A job for the warm process."""

from pathlib import Path

from lora_cli.runtime.messages import LoraRequest
from tests.making import (
    write_adapter,
)
from tests.runtime.reading import read


def job(directory: Path, name: str = "", **making: object) -> LoraRequest:
    name = name or directory.name
    return LoraRequest(name, directory, read(write_adapter(directory, **making), name))  # type: ignore[arg-type]
