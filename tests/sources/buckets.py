"""A bucket of SeaweedFS, and what is said when it cannot be read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.errors import LoraCliError
from tests.making import write_adapter
from tests.object_servers import S3Server

CONFIG = "adapter_config.json"


def at(bucket: str, key: str = "sql") -> AdapterRef:
    return AdapterRef("s3", f"{bucket}/{key}" if key else bucket)


def put_adapter(server: S3Server, bucket: str, folder: Path, key: str = "sql", **how: object) -> dict[str, bytes]:
    write_adapter(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    server.put(bucket, {f"{key}/{name}": content for name, content in files.items()}, **how)
    return files


def error_of(call: Callable[[], object]) -> LoraCliError:
    with pytest.raises(LoraCliError) as caught:
        call()
    return caught.value
