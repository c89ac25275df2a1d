"""An adapter on a web server, and what is read of it."""

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.sources.web import WebSource
from tests.web_server import WebServer

WEIGHTS = "adapter_model.safetensors"
FILES = {
    "sql/adapter_config.json": b'{"peft_type": "LORA"}',
    f"sql/{WEIGHTS}": bytes(range(256)) * 5000,
    "sql/README.md": b"# SQL\n",
    "sql/tokenizer_config.json": b"",
}


def ref(server: WebServer, folder: str = "sql") -> AdapterRef:
    return AdapterRef("http", f"{server.place}/{folder}")


def weights(revision: Revision) -> RemoteFile:
    file = revision.file(WEIGHTS)
    assert file is not None
    return file


def sizes(revision: Revision) -> dict[str, int | None]:
    return {file.path: file.size for file in revision.files}


def whole(source: WebSource, revision: Revision, file: RemoteFile | None = None) -> bytes:
    return b"".join(source.read(revision, file or weights(revision), 0, None))


ALL = {path.removeprefix("sql/"): len(content) for path, content in FILES.items()}
