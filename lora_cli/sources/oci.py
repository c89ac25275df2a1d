"""Artifacts in OCI registries (distribution specification 1.1): a layer is a file, or a tar of files.

Credentials are found as Docker, Podman and ORAS find them.
"""

import base64
import errno
import gzip
import hashlib
import json
import os
import posixpath
import re
import subprocess
import tarfile
import tempfile
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Annotated, Any
from urllib.parse import urlencode, urlsplit

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import AccessDenied, Corrupt, MachineError, NotFound, Refused, Unreachable, UsageError
from lora_cli.redaction import logger, remember
from lora_cli.refs.adapter_files import CONFIG
from lora_cli.refs.reference import DOCKER_HUB, AdapterRef
from lora_cli.refs.snapshot import RemoteFile, Revision
from lora_cli.refs.web_address import host, is_encrypted, is_loopback
from lora_cli.settings import Settings, bytes_kept_free, home_of
from lora_cli.sources import MOST_ENTRIES, Source, Transient, from_status
from lora_cli.sources.http import Http, Piece, StatusError, get_bytes, guard, redirect_target, whole

MOST_LAYERS, CHUNK, MOST_HEADERS = 200, 1 << 20, 4 << 20
WHOLE = Piece(0, None, None)
ACCEPTED = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, */*"
)
_IMAGES = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_PATH, _TITLE = "org.cncf.model.filepath", "org.opencontainers.image.title"
_MACHINE = {"os": "linux", "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine)}
BROKEN = (gzip.BadGzipFile, zlib.error, tarfile.TarError, EOFError, ValueError, IndexError, RecursionError)
"""What gzip and tarfile raise for what is none."""

_WRONG = "whoever pushed it must push it again"


def registry_endpoint(location: str) -> str:
    """The address of the registry in the location of a reference: over https, unless it is this machine itself."""
    server = location.partition("/")[0]
    scheme = "http" if is_loopback(server) else "https"
    return f"{scheme}://{'registry-1.docker.io' if server in DOCKER_HUB else server}"


def _paths_of(annotations: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in annotations.items() if key in (_PATH, _TITLE)}


class _Descriptor(BaseModel):
    """What a manifest says of a layer, or an index of a manifest."""

    kind: str = Field("", alias="mediaType")
    digest: str = Field(pattern="^sha256:[0-9a-f]{64}$")
    size: int = Field(ge=0)
    annotations: Annotated[dict[str, str] | None, AfterValidator(lambda found: _paths_of(found or {}))] = None
    platform: dict[str, Any] | None = None

    @property
    def path(self) -> str:
        """The path of the file that the layer is."""
        named = next((one for key in (_PATH, _TITLE) if (one := (self.annotations or {}).get(key))), "")
        return posixpath.normpath(named) if named else ""

    @property
    def is_tar(self) -> bool:
        """Whether it is a tar of files. ORAS gives that type to plain files, too; these have a path."""
        is_file = self.path and self.kind == "application/vnd.oci.image.layer.v1.tar"
        return not is_file and re.search(r"[./]tar([.+]\w+)?$", self.kind) is not None


class _Manifest(BaseModel):
    """The layers of an artifact, or the manifests of an index; ``digest`` is its own."""

    digest: str = ""
    artifact: str = Field("", alias="artifactType")
    config: dict[str, Any] | None = None
    layers: list[_Descriptor] | None = Field(None, max_length=MOST_LAYERS)
    manifests: list[_Descriptor] | None = Field(None, max_length=MOST_LAYERS)


class OciSource(Source):
    """OCI registries as a source. A revision is the digest of the manifest, or index, that the tag names.

    A layer that is one file is read by range, and its digest is that of the file. Layers that are tars are downloaded
    when they are listed, and those of the last few artifacts are kept for the reads that follow.
    """

    def __init__(self, settings: Settings, rule: SourceRule | None = None) -> None:
        super().__init__(settings, rule)
        self._repositories: dict[str, _Repository] = {}
        self._unpacked = lru_cache(settings.jobs)(self._unpack)  # one for each adapter that may be in flight

    def pin(self, ref: AdapterRef) -> AdapterRef:
        """``ref`` at the digest that its tag names now: one request, which lists nothing."""
        manifest = self._retries.call(str(ref), lambda: self._repository(ref).manifest(ref))
        return replace(ref, revision=manifest.digest)

    def _resolve(self, ref: AdapterRef) -> Revision:
        """The manifest that the reference names now, and its files. Layers that are tars are downloaded for that."""
        repository = self._repository(ref)
        artifact = top = repository.manifest(ref)
        if (listed := top.manifests) is not None:  # an index: its only manifest, or its only one for this machine
            ours = [one for one in listed if _MACHINE.items() <= (one.platform or {}).items()]
            if len(chosen := ours if len(ours) == 1 else listed) != 1:
                several = ", ".join(one.digest for one in listed[:5]) or "nothing"
                hint = f"choose one by its digest: oci://{ref.untagged}@sha256:…"
                raise UsageError(f"{ref}: this is an index of {len(listed)} manifests ({several})", hint=hint)
            artifact = repository.manifest(ref, chosen[0].digest)
        layers = artifact.layers or []
        files = [
            RemoteFile(layer.path, layer.size, layer.digest.removeprefix("sha256:"), locator=layer.digest)
            for layer in layers
            if layer.path and not layer.is_tar
        ]
        if any(layer.is_tar for layer in layers):
            files += self._unpacked(ref.untagged, artifact.digest).files
        folder = ref.subfolder
        if not folder:  # the only folder with an adapter, if none is at the root: policies may have rules for it
            found = [file.path for file in files if posixpath.basename(file.path) == CONFIG]
            is_fit = len(found) == 1 and found[0].isprintable() and not found[0].startswith(("/", "../"))
            folder = posixpath.dirname(found[0]) if is_fit else ""
        inside = f"{folder}/" if folder else ""
        # Of two with one path the later one counts, as where a tar is unpacked.
        below = {file.path[len(inside) :]: file for file in files if file.path.startswith(inside)}
        if not below:
            raise NotFound(f"{ref}: there are no files in {folder or 'it'}", hint="see what oras manifest fetch shows")
        named = tuple(replace(file, path=path) for path, file in sorted(below.items()))
        return Revision(replace(ref, subfolder=folder), top.digest, named)

    def _stream(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        ref, (digest, _, offset) = revision.ref, file.locator.partition("+")
        if offset:
            tars, end = self._unpacked(ref.untagged, digest), int(offset) + (stop or file.size or 0)
            for at in range(int(offset) + start, end, CHUNK):
                yield os.pread(tars.file.fileno(), min(CHUNK, end - at), at)
        else:
            piece = Piece(start, stop, file.size)
            yield from self._repository(ref).get(f"blobs/{digest}", f"{ref}: {file.path}", piece)

    def _repository(self, ref: AdapterRef) -> "_Repository":
        return self._repositories.setdefault(ref.untagged, _Repository(ref, self._settings, self._rule))

    def _unpack(self, place: str, digest: str) -> "_Tars":
        """Downloads the tars of an artifact, and lists the files in them. No name in a tar is used as a path."""
        ref = AdapterRef("oci", place, revision=digest)
        layers = [layer for layer in self._repository(ref).manifest(ref).layers or () if layer.is_tar]
        until = time.monotonic() + self._settings.adapter_timeout_s
        most = self._settings.max_bytes or 16 << 30

        def check(total: int) -> None:
            if time.monotonic() > until:
                reason = f"{ref}: its layers are not unpacked after {self._settings.adapter_timeout_s:g} s"
                raise Unreachable(reason, hint="raise adapter_timeout (LORA_CLI_ADAPTER_TIMEOUT)")
            if not 0 <= total <= most or len(tars.files) >= MOST_ENTRIES:
                bound = f"{most} bytes or {MOST_ENTRIES} files"
                raise Refused(f"{ref}: its layers have over {bound}", hint="raise max_bytes (LORA_CLI_MAX_BYTES)")

        def save(chunks: Iterable[bytes], into: IO[bytes]) -> None:
            for chunk in chunks:
                check(into.tell() + len(chunk))
                disk = os.fstatvfs(into.fileno())
                kept = bytes_kept_free(self._settings.keep_free, disk.f_blocks * disk.f_frsize)
                if disk.f_bavail * disk.f_frsize < kept + len(chunk):
                    raise OSError(errno.ENOSPC, f"less than {kept} bytes would stay free")
                into.write(chunk)

        def read_packed(size: int = -1) -> bytes:
            check(0)  # gzip reads a name of any length, byte by byte, before it gives anything
            return packed.read(size)

        try:
            tars = _Tars(self._settings.cache_dir)
            check(sum(layer.size for layer in layers))
            for layer in layers:
                begin = tars.seek(0, os.SEEK_END)
                blob = RemoteFile(f"layer {layer.digest}", layer.size, locator=layer.digest)
                with tempfile.TemporaryFile(dir=tars.folder) as packed:
                    save(self.read(Revision(ref, digest, ()), blob, 0, None), packed)
                    packed.seek(0)
                    if layer.digest != f"sha256:{hashlib.file_digest(packed, 'sha256').hexdigest()}":
                        raise Corrupt(f"{ref}: {blob.path} was sent as another", hint="run the command again")
                    packed.seek(0)
                    is_gzip, source = layer.kind.endswith("gzip"), SimpleNamespace(read=read_packed)
                    plain = gzip.GzipFile(fileobj=source) if is_gzip else packed
                    save(iter(partial(plain.read, CHUNK), b""), tars.file)
                tars.add(begin, digest, check)
        except BROKEN as error:
            hint = "push the files themselves, or a tar, plain or with gzip"
            raise Refused(f"{ref}: a layer ({layer.kind:.99}) cannot be unpacked: {error!s:.200}", hint=hint) from error
        except OSError as error:
            raise MachineError(
                f"{ref}: unpacking it: {error.strerror}", hint="free some space for the cache, or move it: --cache-dir"
            ) from error
        return tars


class _Tars:
    """The files in the tars of an artifact, and all these tars in one file without a name, which tarfile reads."""

    def __init__(self, cache: Path) -> None:
        # Where the cache is or will be there is room for adapters.
        self.folder = next((one for one in (cache, *cache.parents) if os.access(one, os.W_OK)), None)
        self.file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - closed with this
        self.files: list[RemoteFile] = []
        self.left = 0
        self.seek, self.tell = self.file.seek, self.file.tell
        weakref.finalize(self, self.file.close)

    def add(self, begin: int, digest: str, check: Callable[[int], None]) -> None:
        """List the files of the tar that begins there, of the artifact with that digest; ``check`` is given each size.

        One that is none, or damaged, raises one of ``BROKEN``.
        """
        self.seek(begin)
        self.left = MOST_HEADERS
        with tarfile.open(fileobj=self, mode="r:") as tar:  # type: ignore[call-overload]
            for member in iter(tar.next, None):
                check(member.size)
                is_file = member.isreg() and not member.issparse()
                self.left = member.size
                sha256 = hashlib.file_digest(tar.extractfile(member), "sha256").hexdigest() if is_file else None
                if not member.isdir():
                    path = posixpath.normpath(member.name)[:2000]  # one so long is refused when it is written
                    locator = f"{digest}+{member.offset_data}"
                    defect = "" if is_file else "is not a regular file"
                    self.files.append(RemoteFile(path, member.size, sha256, locator=locator, defect=defect))
                tar.members.clear()  # it would keep them all
                tar.pax_headers.clear()
                self.left = MOST_HEADERS
            self.seek(tar.offset)  # tarfile takes a broken header for the end
            if self.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError("it is not a tar, or damaged")

    def read(self, size: int) -> bytes:
        """As a file, of which ``left`` bytes may be read. tarfile keeps names and attributes, whatever their size."""
        self.left -= size
        if size > CHUNK or self.left < 0:
            raise tarfile.ReadError("a name or an attribute is too long")
        return self.file.read(size)


class _Repository:
    """One repository of a registry. Threads share it, and the token that it was given when it first asked for one."""

    def __init__(self, ref: AdapterRef, settings: Settings, rule: SourceRule | None) -> None:
        endpoint = (rule and rule.endpoint_url) or registry_endpoint(ref.location)
        # The path of a mirror is a prefix of each repository.
        parts = urlsplit(f"{endpoint.rstrip('/')}/{ref.untagged.partition('/')[2]}")
        self._name, self._url = parts.path[1:], f"{parts.scheme}://{parts.netloc}/v2{parts.path}"
        self._http = Http.of(settings, endpoint)
        self._rule, self._lock = rule, threading.Lock()

    def manifest(self, ref: AdapterRef, digest: str = "") -> _Manifest:
        """The manifest or index with a digest, by default what the reference names: its tag, or ``latest``."""
        what, reference = str(ref), digest or ref.revision or ref.location[len(ref.untagged) + 1 :] or "latest"
        data = whole(self.get(f"manifests/{reference}", what), what, self._http.timeout_s)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if ":" in reference and digest != reference:
            raise Corrupt(f"{what}: {host(self._url)} was asked for the manifest {reference}, and sent {digest}")
        try:
            found = _Manifest.model_validate_json(data)
        except ValidationError as error:
            raise Refused(f"{what}: its manifest is malformed: {error.errors()[0]['msg']}", hint=_WRONG) from error
        # What is both means different things to different readers (CVE-2021-41190).
        if (found.layers is None) == (found.manifests is None):
            raise Refused(f"{what}: this is not a manifest or index that can be read", hint=_WRONG)
        if not found.artifact and (found.config or {}).get("mediaType") in _IMAGES:
            raise UsageError(f"{what}: this is a container image", hint="push the adapter's files alone: oras push")
        return found.model_copy(update={"digest": digest})

    def get(self, path: str, what: str, piece: Piece = WHOLE, *, again: bool = True) -> Iterator[bytes]:
        """The bytes at ``path``, in one attempt, and ``again`` with a token when the registry asks for one."""
        http = self._http
        try:
            yield from get_bytes(http, f"{self._url}/{path}", piece, what, conditions={"Accept": ACCEPTED})
        except StatusError as error:
            if not again or error.status != 401 or not error.url.startswith(self._url):
                raise self._translated(error, what) from error
            with self._lock:
                if self._http is http:
                    self._http = self._authorized(error, what)
            yield from self.get(path, what, piece, again=False)

    def _authorized(self, refusal: StatusError, what: str) -> Http:
        """How requests are made with what an answer of 401 asks for: a user, or a token of the service it names."""
        from lora_cli.sources.transport import send

        login = self._rule.token() if self._rule is not None else ""
        if login or (self._rule is not None and self._rule.anonymous):
            known = Credentials(base64.b64encode(login.encode()).decode())
        else:
            known = find_credentials(host(self._url), self._name, os.environ)
        for secret in (known.basic, known.identity_token):
            remember(secret)
        challenge = re.search(r"\bBearer\s+(.*)", refusal.headers.get("WWW-Authenticate", ""), re.IGNORECASE)
        # The first of each name: those of another scheme may follow.
        asked = dict(reversed(re.findall(r'\b(\w+)="([^"]*)"', challenge[1]))) if challenge else {}
        # A registry sends us to its token service as a redirect does, and the same rules hold.
        service = redirect_target(self._url, asked.get("realm", ""), what)
        if known != Credentials() and not (is_encrypted(self._url) and is_encrypted(service)):
            reason = f"{what}: {host(service)} asks for credentials, which are not sent without encryption"
            raise AccessDenied(reason, hint="use its https:// address")
        if login and ":" not in login:
            return replace(self._http, token=login, basic=False)
        if challenge is None:
            if not known.basic:
                raise self._translated(refusal, what) from refusal
            return replace(self._http, token=known.basic, basic=True)
        asked = {"scope": f"repository:{self._name}:pull", **asked}
        query = {name: asked[name] for name in ("service", "scope") if name in asked}
        body, headers = None, {"Authorization": f"Basic {known.basic}"} if known.basic else {}
        if known.identity_token:
            form = {"grant_type": "refresh_token", "client_id": "lora-cli", "refresh_token": known.identity_token}
            body = urlencode({**form, **query}).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
        else:
            service += ("&" if "?" in service else "?") + urlencode(query)
        allowed = guard(self._http.private, refusal.peer, f"{what}: a token of {host(service)} is asked for")
        # No redirect is followed. After what may be gone at another try, the registry is asked again, too.
        with closing(send(service, headers, self._http.timeout_s, allowed, body)) as response:
            if response.status == 429 or response.status >= 500:
                raise from_status(host(service), response.status, response.headers)
            if response.status != 200:
                raise self._translated(StatusError(403, service, response.headers), what)
            try:
                answer = dict(json.loads(whole(response.chunks(), what, self._http.timeout_s)))
                token = str(answer.get("token") or answer["access_token"])
            except (ValueError, TypeError, LookupError) as error:
                hint = "check that it is an OCI registry"
                raise Transient(f"the response of {host(service)} contains no token", hint=hint) from error
        remember(token)
        return replace(self._http, token=token, basic=False)

    def _translated(self, error: StatusError, what: str) -> AccessDenied | NotFound | Unreachable:
        """The registry's refusal in words, with a hint."""
        server, status = host(error.url), error.status
        if status in {401, 403}:
            hint = f"log in: docker login {host(self._url)} (or podman, oras), or check token_env in the settings"
            return AccessDenied(f"{what}: {server} denies access ({status})", hint=hint)
        if status == 404:
            hint = "check the name and the tag; some registries also answer so to those who are not logged in"
            return NotFound(f"{what}: not found on {server} ({status})", hint=hint)
        return Unreachable(f"{what}: {server} answered {status}", hint="check that it is an OCI registry")


log = logger(__name__)


@dataclass(frozen=True)
class Credentials:
    """What a registry is told of who asks; nothing of nobody.

    ``basic`` is a user with a password, encoded (RFC 7617). An ``identity_token`` is exchanged for a bearer token.
    """

    basic: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


def find_credentials(server: str, repository: str, environ: Mapping[str, str]) -> Credentials:
    """The credentials for a repository of ``server`` (``HOST[:PORT]``), empty ones if there are none.

    They are in the first file that has some: ``REGISTRY_AUTH_FILE``, ``$DOCKER_CONFIG/config.json`` (by default in
    ``~/.docker``), then Podman's ``auth.json``. A file names a credential helper, or has the credentials.

    Raises:
        UsageError: a file cannot be read, or is no such file.
    """
    home = home_of(environ)
    names = (server, f"https://{server}")
    if server == "registry-1.docker.io":
        names = ("https://index.docker.io/v1/", "docker.io")  # as Docker calls it, and Podman
    folders = repository.split("/")
    keys = ["/".join((name, *folders[:count])) for name in names for count in range(len(folders), -1, -1)]
    for place, file in (
        (environ.get("REGISTRY_AUTH_FILE"), ""),
        (environ.get("DOCKER_CONFIG") or home / ".docker", "config.json"),
        (environ.get("XDG_RUNTIME_DIR"), "containers/auth.json"),
        (environ.get("XDG_CONFIG_HOME") or home / ".config", "containers/auth.json"),
    ):
        if not place or not os.access(path := Path(place, file), os.R_OK):
            continue
        try:
            config = json.loads(path.read_bytes())
            helper = config.get("credHelpers", {}).get(names[0]) or config.get("credsStore")
            found = [_ask_helper(helper, names[0])] if helper else []
            entries = [config["auths"][key] for key in keys if key in (config.get("auths") or ())]
            found += [Credentials(entry.get("auth", ""), entry.get("identitytoken", "")) for entry in entries]
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is not a file of registry credentials", hint="docker login renews it") from error
        if known := [one for one in found if one != Credentials()]:
            return known[0]
    return Credentials()


def _ask_helper(name: str, server: str) -> Credentials:
    """The answer of a credential helper; empty when it has none, or fails, which the log says."""
    program = f"docker-credential-{name}"
    try:
        done = subprocess.run(  # noqa: S603 - a helper that this user's own file names
            [program, "get"], input=server.encode(), capture_output=True, timeout=30, check=True
        )
        answer = json.loads(done.stdout)
        user, secret = answer["Username"], answer["Secret"]
    except (OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
        log.info("%s has no credentials for %s (%s)", program, server, type(error).__name__)
        return Credentials()
    if user == "<token>":
        return Credentials(identity_token=secret)
    return Credentials(base64.b64encode(f"{user}:{secret}".encode()).decode())
