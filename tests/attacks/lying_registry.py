"""A registry that answers what a test has it answer, and what a fetch from it ends with."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from lora_cli.errors import LoraCliError
from lora_cli.refs.reference import parse
from lora_cli.refs.request import Selection
from lora_cli.settings import Settings
from lora_cli.sources.oci import OciSource
from lora_cli.store import Store
from tests.answering import Asked, Reply
from tests.bringing import bring
from tests.oci_server import OCI_INDEX, OCI_MANIFEST, TITLE, digest_of

FILES = {"adapter_config.json": b'{"peft_type": "LORA"}', "adapter_model.safetensors": os.urandom(100_000)}
TAR = "application/vnd.kitops.modelkit.model.v1.tar"
NOWHERE = "http://169.254.169.254"


@dataclass
class Liar:
    """Answers by path; ``asked`` are the paths and their ``Authorization``."""

    answers: dict[str, Reply] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    place: str = ""

    def reply(self, asked: Asked) -> Reply:
        self.asked.append((asked.path, asked.headers.get("Authorization", "")))
        status, body, headers = self.answers.get(asked.path, (404, b"", {}))
        if status == 200 and (sought := asked.headers.get("Range")):
            first, _, last = sought.removeprefix("bytes=").partition("-")
            stop = int(last) + 1 if last else len(body)
            shown = {"Content-Range": f"bytes {first}-{min(stop, len(body)) - 1}/{len(body)}"}
            return 206, body[int(first) : stop], {**headers, **shown}
        return status, body, headers

    def blob(self, data: bytes, digest: str = "") -> tuple[str, int]:
        digest = digest or digest_of(data)
        self.answers[f"/v2/acme/sql/blobs/{digest}"] = 200, data, {}
        return digest, len(data)

    def layer(self, data: bytes, kind: str = "text/plain", title: str = "", digest: str = "") -> dict[str, Any]:
        digest, size = self.blob(data, digest)
        return {"mediaType": kind, "digest": digest, "size": size, "annotations": {TITLE: title} if title else {}}

    def manifest(self, manifest: Mapping[str, Any], kind: str = OCI_MANIFEST, *, tag: str = "v1") -> str:
        config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2}
        told = manifest if kind == OCI_INDEX else {"config": config, **manifest}
        data = json.dumps({"mediaType": kind, **told}).encode()
        digest = digest_of(data)
        self.answers[f"/v2/acme/sql/manifests/{tag}"] = 200, data, {"Content-Type": kind}
        self.answers[f"/v2/acme/sql/manifests/{digest}"] = 200, data, {"Content-Type": kind}
        return digest

    def plain(self) -> None:
        """``FILES``, honestly."""
        self.manifest({"layers": [self.layer(data, title=path) for path, data in FILES.items()]})

    def tars(self, *tars: bytes, kind: str = TAR) -> None:
        self.manifest({"layers": [self.layer(data, kind) for data in tars]})


def error_of(liar: Liar, settings: Settings, tag: str = ":v1") -> LoraCliError:
    ref = parse(f"oci://{liar.place}/acme/sql{tag}", is_path=lambda _: False)
    with pytest.raises(LoraCliError) as caught:
        bring(ref, OciSource(settings), Store(settings.cache_dir), settings, selection=Selection(include=("*",)))
    assert not list((settings.cache_dir / "snapshots").rglob("*.safetensors"))
    assert caught.value.exit_code != 70
    return caught.value


def code(liar: Liar, settings: Settings, tag: str = ":v1") -> int:
    return error_of(liar, settings, tag).exit_code
