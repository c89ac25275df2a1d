"""Artifacts that somebody else pushed or named: wrong bytes, too much of them, ways out, and where secrets go."""

import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from lora_cli.errors import LoraCliError
from lora_cli.refs.reference import parse
from lora_cli.refs.request import Selection
from lora_cli.settings import Settings
from lora_cli.sources.oci import OciSource
from lora_cli.store import Store
from tests.answering import Asked, Reply, answering
from tests.bringing import bring
from tests.oci_server import BASIC, OCI_MANIFEST, TITLE, digest_of, log_in, tar_of

FILES = {"adapter_config.json": b'{"peft_type": "LORA"}', "adapter_model.safetensors": os.urandom(100_000)}
TAR = "application/vnd.kitops.modelkit.model.v1.tar"
NOWHERE = "http://169.254.169.254"
MANIFESTS = "/v2/acme/sql/manifests"


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

    def layer(self, data: bytes, kind: str = "text/plain", title: str = "", digest: str = "") -> dict[str, Any]:
        digest = digest or digest_of(data)
        self.answers[f"/v2/acme/sql/blobs/{digest}"] = 200, data, {}
        told = {"mediaType": kind, "digest": digest, "size": len(data)}
        return {**told, "annotations": {TITLE: title} if title else {}}

    def manifest(self, manifest: Mapping[str, Any]) -> None:
        config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2}
        data = json.dumps({"mediaType": OCI_MANIFEST, "config": config, **manifest}).encode()
        for name in ("v1", digest_of(data)):
            self.answers[f"{MANIFESTS}/{name}"] = 200, data, {"Content-Type": OCI_MANIFEST}

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


@pytest.fixture
def liar() -> Iterator[Liar]:
    one = Liar()
    with answering(one.reply) as url:
        one.place = url.removeprefix("http://")
        yield one


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "cache", timeout_s=5, retries=0, keep_free=0)


def test_a_manifest_that_is_another_than_its_digest_is_corrupt(liar: Liar, settings: Settings) -> None:
    liar.plain()
    wrong = digest_of(b"pinned")
    liar.answers[f"{MANIFESTS}/{wrong}"] = liar.answers[f"{MANIFESTS}/v1"]
    assert code(liar, settings, f"@{wrong}") == 5


@pytest.mark.parametrize("kind", ["text/plain", TAR])
def test_a_layer_that_is_another_than_its_digest_is_corrupt(liar: Liar, settings: Settings, kind: str) -> None:
    config, weights = (FILES[path] for path in FILES)
    if kind == TAR:
        liar.manifest({"layers": [liar.layer(tar_of(FILES), kind, digest=digest_of(b"another"))]})
    else:
        wrong = liar.layer(weights, title="adapter_model.safetensors", digest=digest_of(b"another"))
        liar.manifest({"layers": [liar.layer(config, title="adapter_config.json"), wrong]})
    assert code(liar, settings) == 5


BLOB = {"mediaType": "text/plain", "digest": digest_of(b""), "size": 0, "annotations": {TITLE: "a"}}
NO_MANIFESTS = (
    b"{" + b" " * (5 << 20) + b"}",
    b"<html>log in</html>",
    b"{}",
    *(
        json.dumps({"mediaType": OCI_MANIFEST, "config": BLOB, **malformed}).encode()
        for malformed in (
            {"layers": [BLOB], "manifests": []},
            {"layers": [1]},
            {"layers": [{**BLOB, "size": -1}]},
            {"layers": [{**BLOB, "digest": f"{digest_of(b'')}/../../secret"}]},
        )
    ),
)


@pytest.mark.parametrize("body", NO_MANIFESTS, ids=range(len(NO_MANIFESTS)))
def test_a_manifest_that_is_none_is_refused(liar: Liar, settings: Settings, body: bytes) -> None:
    liar.answers[f"{MANIFESTS}/v1"] = 200, body, {"Content-Type": OCI_MANIFEST}
    assert code(liar, settings) == 1


def test_hundreds_of_layers_are_refused(liar: Liar, settings: Settings) -> None:
    config = liar.layer(FILES["adapter_config.json"], title="adapter_config.json")
    names = (f"adapter_model-{at:05}-of-00200.safetensors" for at in range(200))
    liar.manifest({"layers": [config, *({**config, "annotations": {TITLE: name}} for name in names)]})
    assert code(liar, settings) == 1
    assert not [path for path, _ in liar.asked if "/blobs/" in path]


PATHS = ("../evil", "a/../../evil", "/etc/evil", "a\nb", "adapter_config.json/x", "a" * 2000)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["text/plain", TAR])
def test_a_path_that_leads_out_is_refused(liar: Liar, settings: Settings, path: str, kind: str) -> None:
    files = {**FILES, path: b"evil"}
    if kind == TAR:
        liar.tars(tar_of(files))
    else:
        liar.manifest({"layers": [liar.layer(data, title=name) for name, data in files.items()]})
    assert code(liar, settings) == 1
    assert not (settings.cache_dir.parent / "evil").exists()


REALMS = {"https://169.254.169.254/token": 1, f"{NOWHERE}/token": 3, "file:///etc/passwd": 4}


@pytest.mark.parametrize("realm", REALMS)
def test_a_token_is_not_asked_for_anywhere(liar: Liar, settings: Settings, realm: str) -> None:
    log_in(liar.place)
    challenge = {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'}
    liar.answers[f"{MANIFESTS}/v1"] = 401, b"", challenge
    assert code(liar, settings) == REALMS[realm]


def test_secrets_go_to_the_registry_and_its_token_service_only(liar: Liar, settings: Settings) -> None:
    log_in(liar.place)
    storage = Liar()
    with answering(storage.reply) as elsewhere:
        liar.plain()
        manifest = liar.answers[f"{MANIFESTS}/v1"]
        for path in [path for path in liar.answers if "/blobs/" in path]:
            storage.answers[path] = 401, b"", {"WWW-Authenticate": f'Bearer realm="{elsewhere}/token"'}
            liar.answers[path] = 307, b"", {"Location": elsewhere + path}
        for challenge, sent in (
            (f'Bearer realm="http://{liar.place}/token",service="x",scope="a"', ""),
            ('Basic realm="y"', f"Basic {BASIC}"),
        ):
            liar.answers[f"{MANIFESTS}/v1"] = 401, b"", {"WWW-Authenticate": challenge}
            liar.answers["/token?service=x&scope=a"] = 200, b'{"token": "a-bearer-token"}', {}
            liar.asked.clear()
            assert code(liar, settings) == 3
            path = f"{MANIFESTS}/v1"
            expected = [(path, ""), (path, sent or "Bearer a-bearer-token")]
            if not sent:
                expected.insert(1, ("/token?service=x&scope=a", f"Basic {BASIC}"))
            assert liar.asked == expected
        liar.answers[f"{MANIFESTS}/v1"] = manifest
        assert code(liar, settings) == 3
        assert storage.asked
        assert not any(authorization for _, authorization in storage.asked)
        assert not any("/token" in path for path, _ in storage.asked)


def _member(kind: bytes, size: int = 0, name: str = "adapter_config.json") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, "/etc/passwd"
    return info.tobuf(tarfile.GNU_FORMAT)


def _sparse(count: int) -> bytes:
    """A file of old GNU's with ``count`` more blocks of holes, of which the last one says that more follow."""
    head = bytearray(_member(tarfile.GNUTYPE_SPARSE))
    head[386:482], head[482], head[148:156] = b"00000000001\0" * 8, 1, b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + (b"00000000001\0" * 42 + b"\1" + bytes(7)) * count


_ATTRIBUTES = b"".join(b"14 k%07d=v\n" % number for number in range(1 << 16))[: 1 << 20].ljust(1 << 20, b"\0")
GZIP = f"{TAR}+gzip"
ODD = {
    "no tar": (TAR, os.urandom(2000)),
    "cut": (TAR, tar_of(FILES)[:50_000]),
    "cut gzip": (GZIP, tar_of(FILES, "gzip")[:5000]),
    "weights that are a link": (TAR, _member(tarfile.SYMTYPE, name="adapter_model.safetensors") + bytes(1024)),
    "weights that are a FIFO": (TAR, _member(tarfile.FIFOTYPE, name="adapter_model.safetensors") + bytes(1024)),
    "a long name": (TAR, _member(tarfile.GNUTYPE_LONGNAME, 1 << 20) + bytes(1024)),
    "long attributes": (TAR, _member(tarfile.XHDTYPE, 2 << 20) + bytes(2 << 20) + tar_of(FILES)),
    "a huge file": (TAR, _member(tarfile.REGTYPE, 1 << 40) + bytes(1024)),
    "attributes in attributes": (TAR, _member(tarfile.XHDTYPE, 0) * 5000 + tar_of(FILES)),
    "attributes for all that follow": (TAR, (_member(tarfile.XGLTYPE, 1 << 20) + _ATTRIBUTES) * 5 + tar_of(FILES)),
    "a sparse file that is cut": (TAR, _sparse(0)),
    "a sparse file of holes": (TAR, _sparse(10_000)),
    "members without end": (TAR, tar_of({f"{number}": b"" for number in range(10_001)})),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_an_odd_tar_is_refused(liar: Liar, settings: Settings, name: str) -> None:
    kind, data = ODD[name]
    liar.tars(tar_of(FILES, kind), data, kind=kind)
    assert code(liar, settings) == 1


def test_a_tar_has_the_bytes_and_the_time_of_an_adapter(liar: Liar, settings: Settings) -> None:
    for kind in ("", "gzip"):
        liar.tars(tar_of(FILES, kind), kind=f"{TAR}+gzip" if kind else TAR)
        assert code(liar, replace(settings, max_bytes=50_000)) == 1
        assert code(liar, replace(settings, adapter_timeout_s=0.0)) == 4
    liar.tars(tar_of({**FILES, "zeros": bytes(9 << 20)}, "gzip"), kind=GZIP)
    assert code(liar, replace(settings, keep_free=1 << 60)) == 6
    assert "its layers have over" in error_of(liar, replace(settings, max_bytes=1 << 20)).message
    liar.asked.clear()
    liar.manifest({"layers": [{**liar.layer(tar_of(FILES), TAR), "size": 1 << 40}]})
    assert code(liar, settings) == 1
    assert not [path for path, _ in liar.asked if "/blobs/" in path]
