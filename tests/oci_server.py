"""Debian's docker-registry on loopback, and what pushes to a registry by hand.

In a test::

    with registry(folder) as server:
        server.push("acme/sql:v1", {"adapter_config.json": b"{}"})
        ...                                     # oci://{server.place}/acme/sql:v1
"""

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit
from urllib.request import Request, urlopen

from tests.answering import Asked, Reply, answering
from tests.processes import listens, numbers, running

USER = ("alice", "wonderland-pass")
BASIC = base64.b64encode(":".join(USER).encode()).decode()
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
TITLE = "org.opencontainers.image.title"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True)
class Registry:
    """A running registry."""

    place: str
    scheme: str = "http"
    store: Path | None = None

    def name(self) -> str:
        """A repository that nobody else has."""
        return f"acme/sql-{next(numbers)}"

    def ask(
        self, path: str, method: str = "GET", data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[Message, bytes]:
        """Headers and body of the answer to a request below ``/v2/``."""
        request = Request(urljoin(f"{self.scheme}://{self.place}/v2/", path), data, dict(headers or {}), method=method)
        with urlopen(request) as answer:
            return answer.headers, answer.read()

    def blob(self, repository: str, data: bytes) -> str:
        """Uploads a blob; its digest."""
        location = self.ask(f"{repository}/blobs/uploads/", "POST", b"")[0]["Location"]
        digest = digest_of(data)
        ends = f"{location}{'&' if '?' in location else '?'}digest={digest}"
        self.ask(ends, "PUT", data, {"Content-Type": "application/octet-stream"})
        return digest

    def layer(self, repository: str, data: bytes, media_type: str) -> dict[str, Any]:
        """Uploads a blob; its descriptor."""
        return {"mediaType": media_type, "digest": self.blob(repository, data), "size": len(data)}

    def manifest(self, name: str, manifest: Mapping[str, Any], media_type: str = OCI_MANIFEST) -> str:
        """Puts a manifest at ``repository:tag``; its digest."""
        repository, _, tag = name.partition(":")
        data = json.dumps({"schemaVersion": 2, "mediaType": media_type, **manifest}).encode()
        self.ask(f"{repository}/manifests/{tag or digest_of(data)}", "PUT", data, {"Content-Type": media_type})
        return digest_of(data)

    def config(self, repository: str, media_type: str = EMPTY) -> dict[str, Any]:
        """Uploads a config; its descriptor."""
        return self.layer(repository, b"{}", media_type)

    def push(self, name: str, files: Mapping[str, bytes]) -> str:
        """Pushes each file as a layer with its title, as ORAS does; the manifest's digest."""
        repository = name.partition(":")[0]
        kind = "application/vnd.oci.image.layer.v1.tar"
        layers = [{**self.layer(repository, data, kind), "annotations": {TITLE: path}} for path, data in files.items()]
        return self.manifest(name, {"config": self.config(repository), "layers": layers})


def tar_of(files: Mapping[str, bytes], kind: str = "tar") -> bytes:
    """A tar of files, compressed as the end of a media type says."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(stream.getvalue(), 1) if kind.endswith("gzip") else stream.getvalue()


@contextmanager
def registry(
    folder: Path, auth: str = "", certificate: Path | None = None, store: Path | None = None
) -> Iterator[Registry]:
    """The registry. ``auth`` is lines of YAML; ``store`` is the folder of another one, whose content it has too."""
    (store or folder / "store").mkdir(exist_ok=True)

    def command(port: int) -> Sequence[str]:
        tls = f"\n  tls: {{certificate: '{certificate}', key: '{certificate}'}}" if certificate else ""
        (folder / "config.yml").write_text(
            f"version: 0.1\nlog: {{accesslog: {{disabled: true}}, level: error}}\n{auth}\n"
            f"storage: {{filesystem: {{rootdirectory: '{store or folder / 'store'}'}}}}\n"
            f"http:\n  addr: 127.0.0.1:{port}{tls}\n"
        )
        return ["docker-registry", "serve", str(folder / "config.yml")]

    with running(command, folder / "registry.log", [0], answers=listens) as endpoint:
        place = endpoint.removeprefix("http://")
        place = place.replace("127.0.0.1", "localhost") if certificate else place
        yield Registry(place, "https" if certificate else "http", store or folder / "store")


def htpasswd(folder: Path) -> str:
    """The configuration of basic authentication, for ``USER``."""
    import bcrypt

    user, password = USER
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    (folder / "htpasswd").write_text(f"{user}:{hashed}\n")
    return f"auth: {{htpasswd: {{realm: test, path: '{folder / 'htpasswd'}'}}}}"


@dataclass
class TokenServer:
    """A service of bearer tokens that a registry trusts by its certificate; ``asked`` are the requests to it.

    Anybody gets tokens to pull from ``acme/public``; the other repositories are for ``USER``, or for whoever has the
    identity token ``refresh``.
    """

    certificate: Path
    url: str = ""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    refresh: str = "an-identity-token-of-alice"

    def auth(self) -> str:
        """The configuration of the registry."""
        return (
            f"auth: {{token: {{realm: '{self.url}/token', service: test-registry, issuer: test-issuer, "
            f"rootcertbundle: '{self.certificate}'}}}}"
        )

    def reply(self, asked: Asked) -> Reply:
        form = asked.body.decode() if asked.command == "POST" else urlsplit(asked.path).query
        fields = {name: values[0] for name, values in parse_qs(form).items()}
        sent = asked.headers.get("Authorization", "")
        self.asked.append((asked.command, sent, fields))
        known = fields.get("refresh_token") == self.refresh if asked.command == "POST" else sent == f"Basic {BASIC}"
        if (sent or asked.command == "POST") and not known:
            return 401, b"{}", {}
        _, name, actions = fields["scope"].split(":")
        granted = actions.split(",") if known else (["pull"] if name == "acme/public" else [])
        access = [{"type": "repository", "name": name, "actions": granted}]
        answer = {"token": self._signed(access, fields["service"])}
        return 200, json.dumps(answer).encode(), {"Content-Type": "application/json"}

    def _signed(self, access: object, service: str) -> str:
        """A JSON Web Token with the certificate in its head."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec, utils

        pem = self.certificate.read_bytes()
        key = serialization.load_pem_private_key(pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
        now = time.time()
        head = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        claims = {
            "iss": "test-issuer", "sub": "", "aud": service, "exp": int(now) + 300, "nbf": int(now) - 60,
            "iat": int(now), "jti": str(next(numbers)), "access": access,
        }  # fmt: skip
        text = ".".join(_base64url(json.dumps(part).encode()) for part in (head, claims))
        r, s = utils.decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@contextmanager
def token_server(certificate: Path) -> Iterator[TokenServer]:
    """The service of tokens, while the context lasts."""
    server = TokenServer(certificate)
    with answering(server.reply) as server.url:
        yield server


def log_in(place: str, **entry: str) -> None:
    """A ``config.json`` of Docker with one entry, by default that of ``USER``."""
    file = Path(os.environ["DOCKER_CONFIG"], "config.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"auths": {place: entry or {"auth": BASIC}}}))
