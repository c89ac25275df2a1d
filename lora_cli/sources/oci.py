"""Artifacts in OCI registries (distribution specification 1.1): a layer is a file, or a tar of files."""

import gzip
import hashlib
import json
import os
import re
import tarfile
import tempfile
import threading
import time
import weakref
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from pydantic import BaseModel, Field, ValidationError

from lora_cli.core.adapter_files import CONFIG
from lora_cli.core.addresses import DOCKER_HUB, OCI_DIGEST
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.core.text import size as in_units
from lora_cli.core.web_address import is_encrypted, is_loopback
from lora_cli.errors import (
    AccessDenied,
    Corrupt,
    LoraCliError,
    MachineError,
    NotFound,
    Refused,
    Unreachable,
    UsageError,
)
from lora_cli.redaction import remember
from lora_cli.settings import Settings
from lora_cli.sources import MOST_ENTRIES, Source
from lora_cli.sources.docker_config import NOBODY, Credentials, find_credentials
from lora_cli.sources.http import Headers, Http, Piece, StatusError, get_bytes, host, redirect_target
from lora_cli.sources.retries import Retries, Transient, from_status
from lora_cli.sources.ssrf_guard import allows_private, guard
from lora_cli.sources.tokens import token_of

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule

MOST_LAYERS, MANIFEST_CAP = 200, 4 << 20
MOST_UNPACKED = 16 << 30
"""Bytes in the tars of an artifact where ``max_bytes`` sets no limit."""

FREE_BYTES, MOST_RATIO = 64 << 20, 20
"""A tar has at most 64 MiB and 20 times the size of its layer: weights hardly shrink."""

PIECE = 64 << 10
"""So much of a tar is read at once. No name or set of attributes in it is longer."""

INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_IMAGES = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_MODELS = ("application/vnd.cncf.model.", "application/vnd.kitops.modelkit.")
"""Layouts whose media types say what is a tar: CNCF ModelPack, KitOps."""

_PATHS = ("org.cncf.model.filepath", "org.opencontainers.image.title")
_ORAS_FOLDER = "io.deis.oras.content.unpack"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_MACHINE = {"os": "linux", "architecture": _ARCHITECTURES.get(os.uname().machine, os.uname().machine)}
_WRONG = "whoever pushed it must push it again"
_SMALLER = f"{_WRONG}; if it is too large, raise max_bytes (LORA_CLI_MAX_BYTES)"


def registry_endpoint(location: str) -> str:
    """The address of the registry in the location of a reference: over https, unless it is this machine itself."""
    server = location.partition("/")[0]
    if server in DOCKER_HUB:
        return "https://registry-1.docker.io"
    return f"{'http' if is_loopback(server) else 'https'}://{server}"


class _Descriptor(BaseModel):
    """What a manifest says of a layer, or an index of a manifest."""

    kind: str = Field("", alias="mediaType")
    digest: str = Field(pattern="^sha256:[0-9a-f]{64}$")
    size: int = Field(strict=True, ge=0, lt=1 << 63)
    annotations: dict[str, str] | None = None
    platform: dict[str, Any] | None = None

    @property
    def path(self) -> str:
        """The path of the file that the layer is."""
        named = next((path for name in _PATHS if (path := (self.annotations or {}).get(name))), "")
        return "/".join(part for part in named.split("/") if part != ".")

    @property
    def tar(self) -> str:
        """``tar``, ``tar+gzip`` and so on; "" for a file. The type of a plain file that ORAS pushes is a tar's, too."""
        is_folder = (self.annotations or {}).get(_ORAS_FOLDER) == "true"
        if self.path and not is_folder and not self.kind.startswith(_MODELS):
            return ""
        found = re.search(r"[./](tar(?:[.+][a-z0-9]+)?)$", self.kind)
        return found[1].replace(".", "+") if found else ""


class _Manifest(BaseModel):
    """The layers of an artifact, or the manifests of an index; ``digest`` is its own."""

    digest: str = ""
    kind: str = Field("", alias="mediaType")
    artifact: str = Field("", alias="artifactType")
    config: dict[str, Any] | None = None
    layers: list[_Descriptor] | None = Field(None, max_length=MOST_LAYERS)
    manifests: list[_Descriptor] | None = Field(None, max_length=MOST_LAYERS)

    @property
    def is_valid(self) -> bool:
        """One that is both means different things to different readers (CVE-2021-41190)."""
        kinds = MANIFESTS if self.manifests is None else INDEXES
        return (self.layers is None) != (self.manifests is None) and self.kind in {"", *kinds}


class OciSource(Source):
    """OCI registries as a source. A revision is the digest of the manifest, or index, that the tag names.

    A layer that is one file is read by range, and its digest is that of the file. Layers that are tars are downloaded
    when they are listed, and those of the last few artifacts are kept for the reads that follow.
    """

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        """Opens no connection and reads no credentials yet; ``rule`` says where requests go, and with whose token."""
        super().__init__(settings, rule)
        self._repositories: dict[str, _Repository] = {}
        self._tars: dict[str, _Tars] = {}
        self._turn, self._turns = threading.Lock(), weakref.WeakValueDictionary[str, threading.Lock]()

    def pin(self, ref: AdapterRef) -> AdapterRef:
        """``ref`` at the digest that its tag names now: one request, which lists nothing."""
        return replace(ref, revision=self._retries.call(str(ref), lambda: self._top(ref)).digest)

    def _resolve(self, ref: AdapterRef) -> Revision:
        """The manifest that the reference names now, and its files. Layers that are tars are downloaded for that.

        Raises:
            NotFound: there is no such repository, tag or folder, or no files.
            AccessDenied: the registry does not give it to this user.
            Refused: a bound is passed, or it is malformed.
            UsageError: it is a container image, or an index of several artifacts.
            Corrupt: a manifest or layer is not what its digest says.
            Unreachable: the tars take too long.
            Transient: network or server.
        """
        top = self._top(ref)
        artifact = top if top.manifests is None else self._only(ref, top.manifests)
        files = [
            RemoteFile(layer.path, layer.size, layer.digest.removeprefix("sha256:"), locator=layer.digest)
            for layer in artifact.layers or ()
            if layer.path and not layer.tar
        ]
        if any(layer.tar for layer in artifact.layers or ()):
            files += self._unpacked(ref, artifact.digest).files
        folder, files = _below(ref.subfolder, files)
        if not files:
            where = f"in its folder {ref.subfolder}" if ref.subfolder else "in it"
            raise NotFound(f"{ref}: there are no files {where}", hint="check what was pushed: oras manifest fetch")
        # Policies may have rules for the folder.
        return Revision(replace(ref, subfolder=folder), top.digest, tuple(sorted(files, key=lambda file: file.path)))

    def _stream(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        ref, (digest, _, offset) = revision.ref, file.locator.partition("+")
        if offset and file.size:
            yield from self._unpacked(ref, digest).read(int(offset) + start, int(offset) + (stop or file.size))
        elif file.size:
            piece = Piece(start, stop, file.size)
            yield from self._repository(ref).attempt(f"blobs/{digest}", piece, f"{ref}: {file.path}")

    def _repository(self, ref: AdapterRef) -> "_Repository":
        place = re.sub(":[^/]*$", "", ref.location)
        return self._repositories.setdefault(place, _Repository(ref, self._settings, self._rule))

    def _top(self, ref: AdapterRef) -> _Manifest:
        """The manifest or index that the reference names now; without a tag that is ``latest``."""
        tag = ref.location.partition("/")[2].partition(":")[2]
        return self._repository(ref).manifest(ref.revision or tag or "latest", str(ref))

    def _only(self, ref: AdapterRef, listed: list[_Descriptor]) -> _Manifest:
        """The only manifest of an index, or its only one for this machine's platform."""
        ours = [one for one in listed if _MACHINE.items() <= (one.platform or {}).items()]
        if len(chosen := ours if len(ours) == 1 else listed) != 1:
            several = ", ".join(one.digest for one in listed[:5]) or "nothing"
            hint = f"choose one by its digest: oci://{re.sub(':[^/]*$', '', ref.location)}@sha256:…"
            raise UsageError(f"{ref}: this is an index of {len(listed)} manifests ({several})", hint=hint)
        return self._repository(ref).manifest(chosen[0].digest, str(ref))

    def _unpacked(self, ref: AdapterRef, digest: str) -> "_Tars":
        """The tars of an artifact: downloaded once for all that ask, and kept for a while."""
        with self._turn:
            turn = self._turns.setdefault(digest, threading.Lock())
        with turn:  # a slow registry holds up nobody who asks for something else
            if tars := self._tars.get(digest):
                return tars
            repository = self._repository(ref)
            layers = repository.manifest(digest, str(ref)).layers or []
            tars = _Tars(self._settings, repository, digest, layers, str(ref))
            with self._turn:
                self._tars[digest] = tars
                # One for each adapter that may be in flight.
                while len(self._tars) > self._settings.jobs:
                    del self._tars[next(iter(self._tars))]
            return tars


def _below(folder: str, files: list[RemoteFile]) -> tuple[str, list[RemoteFile]]:
    """A folder and the files below it; without one, the only folder with an adapter, if none is at the root."""
    if not folder:
        found = [file.path for file in files if file.path.rpartition("/")[2] == CONFIG]
        folder = found[0].rpartition("/")[0] if len(found) == 1 else ""
    inside = f"{folder}/" if folder else ""
    below = [file for file in files if file.path.startswith(inside)]
    return folder, [replace(file, path=file.path.removeprefix(inside)) for file in below]


class _Repository:
    """One repository of a registry. Threads share it, and the token that it was given when it first asked for one."""

    def __init__(self, ref: AdapterRef, settings: Settings, rule: "SourceRule | None") -> None:
        endpoint = ((rule.endpoint_url if rule is not None else None) or registry_endpoint(ref.location)).rstrip("/")
        parts, name = urlsplit(endpoint), ref.location.partition("/")[2].partition(":")[0]
        self._rule, self._found_in, self._lock = rule, "", threading.Lock()
        # The path of a mirror is a prefix of each repository.
        self._name = f"{parts.path.strip('/')}/{name}".lstrip("/")
        self._url = f"{parts.scheme}://{parts.netloc}/v2/{quote(self._name)}"
        self._retries, private = Retries(settings.retries), allows_private(settings)
        self._http = Http(endpoint, settings.timeout_s, private=private)

    def manifest(self, reference: str, what: str) -> _Manifest:
        """The manifest or index with a tag or digest, which is verified."""
        data, accepted = b"", {"Accept": ", ".join((*MANIFESTS, *INDEXES))}
        for chunk in self.attempt(f"manifests/{reference}", Piece(0, None, None), what, accepted):
            data += chunk
            if len(data) > MANIFEST_CAP:
                raise Refused(f"{what}: its manifest is larger than {MANIFEST_CAP} bytes", hint=_WRONG)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if OCI_DIGEST.fullmatch(reference) and digest != reference:
            raise Corrupt(f"{what}: {host(self._url)} was asked for the manifest {reference}, and sent {digest}")
        if not data.lstrip().startswith(b"{"):
            hint = "check the address, and for a login page"
            raise Unreachable(f"{what}: the response is not a manifest", hint=hint)
        try:
            found = _Manifest.model_validate_json(data)
        except ValidationError as error:
            raise Refused(f"{what}: its manifest is malformed: {error.errors()[0]['msg']}", hint=_WRONG) from error
        if not found.is_valid:
            raise Refused(f"{what}: {found.kind!r:.100} is not a manifest or index that can be read", hint=_WRONG)
        if not found.artifact and (found.config or {}).get("mediaType") in _IMAGES:
            raise UsageError(f"{what}: this is a container image", hint="push the adapter's files alone: oras push")
        if other := {layer.tar for layer in found.layers or ()} - {"", "tar", "tar+gzip"}:
            raise Refused(f"{what}: a layer is a {other.pop():.50}", hint="push it as a tar, plain or with gzip")
        return found.model_copy(update={"digest": digest})

    def read(self, path: str, piece: Piece, what: str, headers: Headers | None = None) -> Iterator[bytes]:
        """The bytes at ``path``, with the retries."""
        return self._retries.stream(
            what, piece.start, piece.stop, lambda at: self.attempt(path, replace(piece, start=at), what, headers)
        )

    def attempt(self, path: str, piece: Piece, what: str, headers: Headers | None = None) -> Iterator[bytes]:
        """The bytes at ``path``, with a new token when the registry asks for one: it may end in the midst of a file."""
        position, refused_at = piece.start, -1
        while True:
            http, rest = self._http, replace(piece, start=position)
            try:
                for chunk in get_bytes(http, f"{self._url}/{path}", rest, what, conditions=headers):
                    position += len(chunk)
                    yield chunk
            except StatusError as error:
                if error.status != 401 or not error.url.startswith(self._url) or refused_at == position:
                    raise self._translated(error, what) from error
                refused_at = position
                with self._lock:
                    if self._http is http:
                        self._http = self._authorized(error, what)
            else:
                return

    def _known(self) -> Credentials:
        """Those that the rule names, else Docker's for that server."""
        if self._rule is not None and self._rule.anonymous:
            return NOBODY
        if self._rule is None or not self._rule.token_env:
            return find_credentials(host(self._url), self._name, os.environ)
        user, colon, password = token_of(self._rule, os.environ).partition(":")
        username, bearer = (user, "") if colon else ("", user)
        return Credentials(username, password, bearer=bearer, found_in=self._rule.token_env)

    def _authorized(self, refusal: StatusError, what: str) -> Http:
        """How requests are made with the token that an answer of 401 asks for."""
        known = self._known()
        self._check_encrypted(self._url, known, what)
        self._found_in = known.found_in
        challenge = refusal.headers.get("WWW-Authenticate", "")[:8192]
        if known.bearer:
            return replace(self._http, token=known.bearer, basic=False)
        if found := re.search(r"(?:^|,)\s*Bearer\s+(.*)", challenge, re.IGNORECASE):
            # The first of each name: those of another scheme may follow.
            asked = dict(reversed(re.findall(r'(\w{1,32})="([^"]{0,4096})"', found[1], re.ASCII)))
            return replace(self._http, token=self._new_token(asked, known, refusal.peer, what), basic=False)
        if known.basic and re.search(r"(?:^|,)\s*Basic\b", challenge, re.IGNORECASE):
            return replace(self._http, token=known.basic, basic=True)
        raise self._translated(refusal, what) from refusal

    def _new_token(self, asked: Mapping[str, str], known: Credentials, peer: str, what: str) -> str:
        """A bearer token of the service that the registry names (the distribution project's token specification)."""
        from lora_cli.sources.transport import send

        # A registry sends us to its token service as a redirect does, and the same rules hold.
        url = redirect_target(self._url, asked.get("realm", ""), what)
        self._check_encrypted(url, known, what)
        allowed = guard(self._http.private, peer, f"{what}: {host(self._url)} asks for a token of {host(url)}")
        query = {"service": asked["service"]} if "service" in asked else {}
        query["scope"] = asked.get("scope") or f"repository:{self._name}:pull"
        body, headers = None, {"Authorization": f"Basic {known.basic}"} if known.basic else {}
        if known.identity_token:
            form = {"grant_type": "refresh_token", "client_id": "lora-cli", "refresh_token": known.identity_token}
            body, headers = urlencode({**form, **query}).encode(), {"Content-Type": "application/x-www-form-urlencoded"}
        else:
            url += ("&" if "?" in url else "?") + urlencode(query)

        def ask() -> str:
            method = "GET" if body is None else "POST"
            # No redirect is followed, with credentials or without.
            with closing(send(url, headers, self._http.timeout_s, allowed, method=method, body=body)) as response:
                if response.status in (408, 429) or response.status >= 500:
                    raise from_status(host(url), response.status, response.headers)
                if response.status != 200:
                    raise StatusError(403, url, response.headers)
                return _token_in(b"".join(islice(response.chunks(), 64)))

        try:
            token = ask()
        except StatusError as error:
            raise self._translated(error, what) from error
        remember(token)
        return token

    def _check_encrypted(self, url: str, known: Credentials, what: str) -> None:
        if known is not NOBODY and not is_encrypted(url):
            reason = f"{what}: {host(url)} asks for credentials, which are not sent without encryption"
            raise AccessDenied(reason, hint="use its https:// address")

    def _translated(self, error: StatusError, what: str) -> LoraCliError:
        """The registry's refusal in words, with a hint."""
        server, status = host(error.url), error.status
        if status in {401, 403, 407, 451}:
            hint = f"log in: docker login {host(self._url)} (or podman, oras)"
            if self._found_in:
                hint = f"check what the account in {self._found_in} may read; if its token is old, log in again"
            return AccessDenied(f"{what}: {server} denies access ({status})", hint=hint)
        if status in {404, 410}:
            hint = "check the name and the tag; some registries also answer so to those who are not logged in"
            return NotFound(f"{what}: not found on {server} ({status})", hint=hint)
        if status == 416:
            return Corrupt(f"{what}: it ends earlier than its manifest says", hint=_WRONG)
        return Unreachable(f"{what}: {server} answered {status}", hint="check that it is an OCI registry")


def _token_in(body: bytes) -> str:
    try:
        answer = dict(json.loads(body))
    except (ValueError, TypeError, RecursionError):
        answer = {}
    token = answer.get("token") or answer.get("access_token")
    if not isinstance(token, str) or not re.fullmatch(r"[!-~]{1,16000}", token):
        raise Transient("the response contains no token", hint="check that it is an OCI registry")
    return token


class _Tars:
    """The ``files`` in the tars of an artifact, within bounds of bytes and time: all in one file without a name."""

    def __init__(
        self, settings: Settings, repository: _Repository, digest: str, layers: list[_Descriptor], what: str
    ) -> None:
        self._what, self._digest, tars = what, digest, [layer for layer in layers if layer.tar]
        self._until = time.monotonic() + settings.adapter_timeout_s
        self._left = MOST_UNPACKED if settings.max_bytes is None else settings.max_bytes
        self.files = list[RemoteFile]()
        # Where the cache is or will be there is room for adapters.
        near = next(folder for folder in (settings.cache_dir, *settings.cache_dir.parents) if folder.is_dir())
        folder = near if os.access(near, os.W_OK) else Path(tempfile.gettempdir())
        if sum(layer.size for layer in tars) > self._left:
            raise Refused(f"{what}: its layers have over {in_units(self._left)}", hint=_SMALLER)
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with this
            weakref.finalize(self, self._file.close)
            for layer in tars:
                with tempfile.TemporaryFile(dir=folder) as packed:
                    self._download(repository, layer, packed)
                    self._unpack(layer, packed)
            self._file.flush()
        except TimeoutError as error:
            reason = f"{what}: its layers are not unpacked after {settings.adapter_timeout_s:g} s"
            raise Unreachable(reason, hint="raise adapter_timeout (LORA_CLI_ADAPTER_TIMEOUT)") from error
        except (gzip.BadGzipFile, zlib.error, tarfile.TarError, EOFError, ValueError, RecursionError) as error:
            raise Refused(f"{what}: a layer cannot be unpacked: {error!s:.200}", hint=_SMALLER) from error
        except OSError as error:
            hint = "free some space, or set --cache-dir to a larger disk"
            raise MachineError(f"writing a temporary file in {folder}: {error.strerror}", hint=hint) from error

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` of all files together."""
        while start < stop and (piece := os.pread(self._file.fileno(), min(1 << 20, stop - start), start)):
            start += len(piece)
            yield piece

    def _download(self, repository: _Repository, layer: _Descriptor, into: IO[bytes]) -> None:
        hasher = hashlib.sha256()
        for chunk in repository.read(f"blobs/{layer.digest}", Piece(0, layer.size, layer.size), self._what):
            _check_time(self._until)
            hasher.update(chunk)
            into.write(chunk)
        if (digest := f"sha256:{hasher.hexdigest()}") != layer.digest:
            reason = f"{self._what}: the layer {layer.digest} was sent as {digest}"
            raise Corrupt(reason, hint="run the command again")
        into.seek(0)

    def _unpack(self, layer: _Descriptor, packed: IO[bytes]) -> None:
        """The regular files of a tar. None of its names is used as a path."""
        stream = gzip.GzipFile(fileobj=packed) if layer.tar == "tar+gzip" else packed
        reader = _Reader(stream, min(self._left, FREE_BYTES + MOST_RATIO * layer.size), self._until)
        tar = tarfile.open(fileobj=reader, mode="r:")  # type: ignore[call-overload]  # noqa: SIM115
        while (member := tar.next()) is not None:
            tar.members.clear()  # it would keep them all
            path = "/".join(part for part in member.name.split("/") if part not in {"", "."})
            path = f"/{path}" if member.name.startswith("/") else path
            if len(self.files) > MOST_ENTRIES:
                raise Refused(f"{self._what}: it has over {MOST_ENTRIES} files", hint=_WRONG)
            if member.size < 0:
                raise tarfile.ReadError("a size is negative")
            if member.isdir():
                continue
            if member.issparse() or not member.isreg():
                self.files.append(RemoteFile(path, None, defect="is not a regular file"))
                continue
            data, hasher, offset = tar.extractfile(member), hashlib.sha256(), self._file.tell()
            while data is not None and (piece := data.read(PIECE)):
                hasher.update(piece)
                self._file.write(piece)
            locator = f"{self._digest}+{offset}"
            self.files.append(RemoteFile(path, member.size, hasher.hexdigest(), locator=locator))
        self._left -= stream.tell()


class _Reader:
    """A tar as tarfile reads it: at most ``most`` bytes, until a time."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, most: int, until: float) -> None:
        self._stream, self._most, self._until = stream, most, until
        self.tell = stream.tell

    def seek(self, position: int) -> None:
        """In pieces: what is skipped is decompressed, too."""
        if position > self._most:
            raise tarfile.ReadError("it has too many bytes")
        at = self.tell()
        for place in range(at if at <= position else 0, position, PIECE):
            _check_time(self._until)
            self._stream.seek(place)
        self._stream.seek(position)

    def read(self, size: int) -> bytes:
        """As a file: tarfile reads names and attributes whole, whatever their size."""
        _check_time(self._until)
        if size > PIECE or self.tell() + size > self._most:
            raise tarfile.ReadError("it has too many bytes, or a name that is too long")
        return self._stream.read(size)


def _check_time(until: float) -> None:
    if time.monotonic() > until:
        raise TimeoutError
