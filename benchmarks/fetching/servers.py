"""The servers: the test Hub and SeaweedFS, each a process of its own, with the same adapters, near and far away."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RTT_MS, PACE = 30, 50e6
WEIGHTS = "adapter_model.safetensors"
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the adapters are: one of each, and ``many`` small ones."""

    small: int = 1_200_000
    medium: int = 84_000_000
    large: int = GIB
    many: int = 200

    @property
    def named(self) -> dict[str, int]:
        """Name of the repository → bytes of its weights."""
        single = {"small": self.small, "medium": self.medium, "large": self.large}
        return single | dict.fromkeys(self.crowd, MIB)

    @property
    def crowd(self) -> list[str]:
        """Names of the many small ones."""
        return [f"one-{number:03}" for number in range(self.many)]


@dataclass(frozen=True, slots=True)
class Hub:
    """A running Hub: its endpoint, and the commit of each repository ``acme/<name>``."""

    endpoint: str
    commits: dict[str, str]


def write_adapters(folder: Path, sizes: Sizes) -> None:
    """``folder/acme/<name>/``: a config, and weights of random bytes, which nothing compresses."""
    for name, size in sizes.named.items():
        place = folder / "acme" / name
        place.mkdir(parents=True)
        config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "name": name}
        (place / "adapter_config.json").write_text(json.dumps(config))
        with (place / WEIGHTS).open("wb") as stream:
            for start in range(0, size, 16 * MIB):
                stream.write(os.urandom(min(16 * MIB, size - start)))


@contextmanager
def hub(folder: Path, *, far: bool = False, before: Callable[[list[int]], list[int]] | None = None) -> Iterator[Hub]:
    """The test Hub with the adapters in ``folder``; ``far`` puts the slow network before both of its origins.

    ``before`` puts something else there: it is given their ports, and gives those that lead to them.
    """
    ports = _free_ports(2)
    with _slow(ports if far else []) as slow:
        near = slow if before is None else before(ports)
        options = ["--port", str(ports[0]), "--cdn-port", str(ports[1])]
        if near:
            options += ["--cdn-url", f"http://127.0.0.1:{near[1]}"]
        command = [sys.executable, "-m", "tests.hub_server", "--root", str(folder), *options]
        with _process(command) as told:
            endpoint = f"http://127.0.0.1:{near[0]}" if near else told["endpoint"]
            yield Hub(endpoint, {name: _commit(told["endpoint"], name) for name in told["repos"]})


@contextmanager
def s3(folder: Path, adapters: Path) -> "Iterator[Any]":
    """SeaweedFS with the adapters of ``adapters`` under ``s3://loras/<name>/``, the many ones under ``many/``."""
    sys.path.insert(0, str(ROOT))
    from tests.object_servers import seaweed

    folder.mkdir()
    with seaweed(folder) as server:
        server.client.create_bucket(Bucket="loras")
        for file in sorted(adapters.glob("acme/*/*")):
            name = file.parent.name
            key = f"many/{name}/{file.name}" if name.startswith("one-") else f"{name}/{file.name}"
            _upload(server.client, key, file)
        yield server


@contextmanager
def oci(folder: Path, adapters: Path) -> Iterator[str]:
    """Debian's docker-registry, to which its oras pushed ``acme/<name>:v1``; ``HOST:PORT``."""
    sys.path.insert(0, str(ROOT))
    from tests.oci_server import registry

    folder.mkdir()
    with registry(folder) as server:
        for name in ("small", "medium", "large"):
            files = sorted(file.name for file in (adapters / "acme" / name).iterdir())
            push = ["oras", "push", "--plain-http", f"{server.place}/acme/{name}:v1", *files]
            subprocess.run(push, cwd=adapters / "acme" / name, check=True, capture_output=True)
        yield server.place


@contextmanager
def far(port: int) -> Iterator[int]:
    """The slow network before a port; the port that has it."""
    with _slow([port]) as near:
        yield near[0]


def _upload(client: Any, key: str, file: Path) -> None:
    """In parts, as whoever uploads a large file does."""
    size = file.stat().st_size
    if size <= 16 * MIB:
        client.put_object(Bucket="loras", Key=key, Body=file.read_bytes())
        return
    upload = client.create_multipart_upload(Bucket="loras", Key=key)["UploadId"]
    parts: list[dict[str, Any]] = []
    with file.open("rb") as stream:
        while piece := stream.read(16 * MIB):
            number = len(parts) + 1
            done = client.upload_part(Bucket="loras", Key=key, UploadId=upload, PartNumber=number, Body=piece)
            parts.append({"PartNumber": number, "ETag": done["ETag"]})
    client.complete_multipart_upload(Bucket="loras", Key=key, UploadId=upload, MultipartUpload={"Parts": parts})


def _commit(endpoint: str, repository: str) -> str:
    from urllib.request import urlopen

    with urlopen(f"{endpoint}/api/models/{repository}/revision/main") as answer:
        return str(json.load(answer)["sha"])


@contextmanager
def _slow(ports: list[int]) -> Iterator[list[int]]:
    if not ports:
        yield []
        return
    script = Path(__file__).with_name("slow.py")
    with _process([sys.executable, str(script), str(RTT_MS), str(PACE), *map(str, ports)]) as near:
        yield near


@contextmanager
def _process(command: list[str]) -> Iterator[Any]:
    """A process that prints one line of JSON when it is ready."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports
