"""A job for the warm process."""

from pathlib import Path

from lora_cli.runtime.messages import Job
from tests.making import (
    write_adapter,
)
from tests.runtime.reading import read


def job(directory: Path, name: str = "", **making: object) -> Job:
    name = name or directory.name
    return Job(name, directory, read(write_adapter(directory, **making), name))  # type: ignore[arg-type]
