"""Where adapters are fetched from: each kind of source that a server from pip, or one of a few lines, can serve."""

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest import mock

from tests.answering import Asked, Reply, answering
from tests.faulty_proxy import FaultyProxy
from tests.hub_server import Hub
from tests.object_servers import ADMIN, fake_gcs, seaweed, sftp
from tests.oci_server import OCI_MANIFEST, TITLE, digest_of
from tests.web_server import Site, WebServer

CERTIFICATE = Path(__file__).parents[1] / "sources/tls/localhost.pem"
HOURS = itertools.count(1_700_000_000, 3600)
Files = Mapping[str, bytes]


@dataclass
class Place:
    """One kind of source; an adapter at ``path`` there is asked for as ``at`` with that path in it.

    ``put`` writes its files, and gives what pins it after ``@`` where something can. ``fault`` breaks off each answer
    with weights (``cut_at``) or turns a bit of it over (``flip_at``), until ``mend``; without a network there is none.
    """

    at: str
    put: Callable[[str, Files], object]
    env: Mapping[str, str] = field(default_factory=dict)
    fault: Callable[..., object] | None = None
    mend: Callable[[], object] = lambda: None


def write(root: Path, path: str, files: Files) -> None:
    """Each file is an hour younger than the last, for a server that tells times by the second."""
    (root / path).mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / path / name).write_bytes(data)
        os.utime(root / path / name, (hour := next(HOURS), hour))


@contextmanager
def folder(_: Path) -> Iterator[Place]:
    yield Place("{path}", partial(write, Path()))


@contextmanager
def file_url(_: Path) -> Iterator[Place]:
    yield Place("file://{here}/{path}", partial(write, Path()))


@contextmanager
def hub(_: Path) -> Iterator[Place]:
    with Hub() as server:
        fault = partial(server.fault, "/lfs/|adapter_model", times=-1)
        yield Place("{path}", server.add, {"HF_ENDPOINT": server.endpoint}, fault, server.faults.clear)


@contextmanager
def web(_: Path) -> Iterator[Place]:
    site = Site()

    def put(path: str, files: Files) -> None:
        site.files.update({f"{path}/{name}": data for name, data in files.items()})

    def fault(cut_at: int) -> None:
        site.cuts.extend([cut_at] * 20)

    with WebServer(site, CERTIFICATE) as server:
        env = {"SSL_CERT_FILE": str(CERTIFICATE)}
        yield Place(f"https://{server.place}/{{path}}", put, env, fault, site.cuts.clear)


@contextmanager
def s3(data: Path) -> Iterator[Place]:
    with seaweed(data) as server, FaultyProxy(server.endpoint, own_host=True) as proxy:
        bucket = server.bucket()
        env = {**server.environ, "AWS_ENDPOINT_URL": proxy.url}
        yield _behind(proxy, f"s3://{bucket}", lambda path, files: server.put(f"{bucket}/{path}", files), env)


@contextmanager
def gs(data: Path) -> Iterator[Place]:
    with fake_gcs(data) as server, FaultyProxy(server.endpoint) as proxy:
        bucket = server.bucket()

        def put(path: str, files: Files) -> None:
            server.put(bucket, {f"{path}/{name}": data for name, data in files.items()})

        yield _behind(proxy, f"gs://{bucket}", put, {"STORAGE_EMULATOR_HOST": proxy.url})


@contextmanager
def ssh(data: Path) -> Iterator[Place]:
    """rclone's SFTP, whose key the user knows."""
    import fsspec.config
    import paramiko

    served, home = data / "served", data / "home"
    (home / ".ssh").mkdir(parents=True)
    served.mkdir()
    user = {"username": ADMIN[0], "password": ADMIN[1], "allow_agent": False, "look_for_keys": False}
    with sftp(served) as place, FaultyProxy(place, raw=True) as proxy, mock.patch.dict(fsspec.config.conf, sftp=user):
        key = paramiko.ECDSAKey(filename=str(data / "host_key"))
        host, _, port = proxy.place.partition(":")
        (home / ".ssh/known_hosts").write_text(f"[{host}]:{port} {key.get_name()} {key.get_base64()}\n")
        (home / "config.toml").write_text('[[sources]]\nmatch = "fsspec+sftp://*"\n')
        environ = {"HOME": str(home), "LORA_CLI_CONFIG": str(home / "config.toml")}
        yield _behind(proxy, f"fsspec+sftp://{proxy.place}", partial(write, served), environ, "")


@contextmanager
def oci(_: Path) -> Iterator[Place]:
    """A registry in this process: manifests and blobs by their paths."""
    kept: dict[str, tuple[bytes, str]] = {"/v2/": (b"{}", "application/json")}

    def reply(asked: Asked) -> Reply:
        if asked.path not in kept:
            return 404, b"", {}
        data, kind = kept[asked.path]
        headers = {"Content-Type": kind, "Docker-Content-Digest": digest_of(data)}
        if (found := re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("Range", ""))) is None:
            return 200, data, headers
        start, stop = int(found[1]), min(int(found[2] or len(data)) + 1, len(data))
        return 206, data[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}

    def put(path: str, files: Files) -> str:
        def layer(data: bytes, **more: object) -> dict[str, object]:
            kept[f"/v2/{path}/blobs/{digest_of(data)}"] = data, "application/octet-stream"
            return {"mediaType": "application/octet-stream", "digest": digest_of(data), "size": len(data), **more}

        layers = [layer(data, annotations={TITLE: name}) for name, data in files.items()]
        told = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": layer(b"{}"), "layers": layers}
        data = json.dumps(told).encode()
        kept.update({f"/v2/{path}/manifests/{tag}": (data, OCI_MANIFEST) for tag in ("v1", digest_of(data))})
        return digest_of(data)

    with answering(reply) as url, FaultyProxy(url) as proxy:
        place = _behind(proxy, f"oci://{proxy.place}", put, {}, "GET .*/blobs/")
        place.at += ":v1"
        yield place


def _behind(
    proxy: FaultyProxy,
    at: str,
    put: Callable[[str, Files], object],
    env: Mapping[str, str],
    weights: str = "GET .*adapter.{1,3}model",
) -> Place:
    """A place whose bytes come through a proxy."""
    return Place(f"{at}/{{path}}", put, env, partial(proxy.fault, weights, times=-1), proxy.mend)


KINDS: Mapping[str, Callable[[Path], AbstractContextManager[Place]]] = {
    "folder": folder, "file": file_url, "hub": hub, "https": web, "s3": s3, "gs": gs, "sftp": ssh, "oci": oci,
}  # fmt: skip
