"""A client of an OCI registry: tokens, manifests, and blobs by range (the distribution specification 1.1).

What a registry sends is verified against the digest that names it, and is bounded.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from lora_cli.core.addresses import DOCKER_HUB, OCI_DIGEST
from lora_cli.core.web_address import is_encrypted, is_loopback
from lora_cli.errors import AccessDenied, Corrupt, LoraCliError, NotFound, Refused, Unreachable
from lora_cli.redaction import remember
from lora_cli.sources.docker_config import BEARER, NOBODY, Credentials
from lora_cli.sources.http import (
    LONGEST_LINK,
    Headers,
    Http,
    Piece,
    StatusError,
    bounded_body,
    get_bytes,
    host,
    open_response,
)
from lora_cli.sources.http_json import parse_json
from lora_cli.sources.retries import Transient, from_status
from lora_cli.sources.ssrf_guard import Guard, guard

MANIFEST_CAP = 4 << 20
"""The largest manifest that the specification wants registries to accept."""

MOST_DESCRIPTORS = 10_000
TOKEN_CAP = 64 * 1024

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPT = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST))

_PARAMETER = re.compile(r'(\w{1,32})="([^"]{0,4096})"', re.ASCII)
PUSHED_WRONG = "whoever pushed it must push it again"

T = TypeVar("T")


def registry_endpoint(location: str) -> str:
    """The address of the registry in the location of a reference: over https, unless it is this machine itself."""
    server = location.partition("/")[0]
    if server in DOCKER_HUB:
        return "https://registry-1.docker.io"
    return f"{'http' if is_loopback(server) else 'https'}://{server}"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says of a blob or of another manifest."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or an index of a registry, named by its ``digest``. An index has only ``manifests``."""

    digest: str
    media_type: str
    artifact_type: str = ""
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] = ()

    @property
    def is_index(self) -> bool:
        """Whether it lists manifests, and not layers."""
        return self.media_type in {OCI_INDEX, DOCKER_LIST}


class RegistryClient:
    """One repository of a registry. Threads share it, and the token that it was given.

    ``http`` is how the registry at its ``endpoint`` is reached; the path of that is a prefix of each repository. The
    ``credentials`` are looked up when the registry first asks for some.
    """

    def __init__(self, http: Http, repository: str, credentials: Callable[[], Credentials] = lambda: NOBODY) -> None:
        parts = urlsplit(http.endpoint)
        self.repository = f"{parts.path.strip('/')}/{repository}".lstrip("/")
        self.url = f"{parts.scheme}://{parts.netloc}/v2/{quote(self.repository)}"
        self._http, self._credentials = http, credentials
        self._lock = threading.Lock()
        self.known_as = NOBODY
        """Whose token was used last."""

    def call(self, what: str, request: Callable[[Http], T]) -> T:
        """The result of ``request``, which is called again with a new token when the registry asks for one.

        Raises:
            StatusError: an answer that another try would not change.
            AccessDenied, Refused, Unreachable: there is no token.
        """
        http = self._http
        try:
            return request(http)
        except StatusError as error:
            if error.status != 401 or not error.url.startswith(self.url):
                raise
            refused = error
        return request(self._authorized(http, refused, what))

    def manifest(self, reference: str, what: str) -> Manifest:
        """The manifest or index with a tag or digest. Its digest is verified.

        Raises:
            NotFound, AccessDenied, Unreachable: the registry does not give it.
            Corrupt: it is not what the digest names.
            Refused: it is larger than 4 MiB, or malformed.
        """
        url = f"{self.url}/manifests/{reference}"

        def ask(http: Http) -> tuple[bytes, Mapping[str, str]]:
            def once() -> tuple[bytes, Mapping[str, str]]:
                with closing(open_response(http, url, {"Accept": ACCEPT}, what)) as response:
                    hint = "no manifest of an adapter is larger"
                    data = b"".join(bounded_body(response, http.timeout_s, what, MANIFEST_CAP, hint))
                if not data.lstrip().startswith(b"{"):
                    raise Transient("the response is no manifest", hint="check the address, and for a login page")
                return data, response.headers

            return http.retries.call(what, once)

        try:
            data, headers = self.call(what, ask)
        except StatusError as error:
            raise self.translate_error(error, what) from error
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        promised = reference if OCI_DIGEST.fullmatch(reference) else headers.get("Docker-Content-Digest", "")
        if OCI_DIGEST.fullmatch(promised) and digest != promised:
            raise Corrupt(f"{what}: {host(url)} promised the manifest {promised}, and sent {digest}")
        return parse_manifest(data, digest, headers.get("Content-Type", ""), what)

    def read_blob(self, digest: str, piece: Piece, what: str) -> Iterator[bytes]:
        """The bytes of ``piece`` of a blob, in chunks of at most 1 MiB. Its digest is for the caller to verify.

        Raises:
            NotFound, AccessDenied, Unreachable: the registry does not give it.
            Corrupt: it has another size.
        """
        url, position, refused_at = f"{self.url}/blobs/{digest}", piece.start, -1
        while True:
            http = self._http
            try:
                for chunk in get_bytes(http, url, replace(piece, start=position), what):
                    position += len(chunk)
                    yield chunk
            except StatusError as error:
                # A token may end in the midst of a file.
                if error.status != 401 or not error.url.startswith(self.url) or refused_at == position:
                    raise self.translate_error(error, what) from error
                refused_at = position
                self._authorized(http, error, what)
            else:
                return

    def translate_error(self, error: StatusError, what: str) -> LoraCliError:
        """The registry's refusal in words, with a hint."""
        server, status = host(error.url), error.status
        if status in {401, 403, 407, 451}:
            place, found_in = host(self.url), self.known_as.found_in
            hint = f"log in: docker login {place} (or podman, oras)"
            if found_in:
                hint = f"check what the account in {found_in} may read; if its token is old, log in again"
            return AccessDenied(f"{what}: {server} denies access ({status})", hint=hint)
        if status in {404, 410}:
            hint = "check the name and the tag; some registries also answer so to those who are not logged in"
            return NotFound(f"{what}: not found on {server} ({status})", hint=hint)
        if status == 416:
            return Corrupt(f"{what}: it ends earlier than its manifest says", hint=PUSHED_WRONG)
        return Unreachable(f"{what}: {server} answered {status}", hint="check that it is an OCI registry")

    def _authorized(self, refused: Http, error: StatusError, what: str) -> Http:
        """How requests are made with the token that the answer 401 to ``refused`` asks for."""
        with self._lock:
            if self._http is refused:
                self._http = self._with_token(error, what)
            return self._http

    def _with_token(self, error: StatusError, what: str) -> Http:
        challenge = error.headers.get("WWW-Authenticate", "")[:8192]
        known = self._credentials()
        if known is not NOBODY and not is_encrypted(self.url):
            reason = f"{what}: {host(self.url)} asks for credentials, which are not sent without encryption"
            raise AccessDenied(reason, hint="use its https:// address")
        self.known_as = known
        bearer = re.search(r"(?:^|,)\s*Bearer\s+(.*)", challenge, re.IGNORECASE)
        if known.registry_token:
            return replace(self._http, token=known.registry_token, basic=False)
        if bearer is not None:
            return replace(self._http, token=self._new_token(bearer[1], known, error, what), basic=False)
        if known.basic and re.search(r"(?:^|,)\s*Basic\b", challenge, re.IGNORECASE):
            return replace(self._http, token=known.basic, basic=True)
        raise self.translate_error(error, what) from error

    def _new_token(self, challenge: str, known: Credentials, error: StatusError, what: str) -> str:
        """A bearer token of the service that the registry names (the distribution project's token specification)."""
        parameters = _PARAMETER.findall(challenge)
        # The first of each name: those of another scheme may follow.
        asked = dict(reversed(parameters))
        realm = asked.get("realm", "")
        self._check_realm(realm, known, what)
        scopes = [value for name, value in parameters if name == "scope" and value]
        scopes = scopes or [f"repository:{self.repository}:pull"]
        query: dict[str, str | list[str]] = {"service": asked["service"]} if "service" in asked else {}
        query["scope"] = scopes
        body, headers = None, {}
        if known.identity_token:
            query["scope"] = " ".join(scopes)
            form = {"grant_type": "refresh_token", "client_id": "lora-cli", "refresh_token": known.identity_token}
            body, headers = urlencode({**form, **query}).encode(), {"Content-Type": "application/x-www-form-urlencoded"}
        else:
            realm += ("&" if "?" in realm else "?") + urlencode(query, doseq=True)
            headers = {"Authorization": f"Basic {known.basic}"} if known.basic else {}
        prefix = f"{what}: {host(error.url)} asks for a token of {host(realm)}"
        allowed = guard(self._http.private, error.peer, prefix)
        try:
            token = self._http.retries.call(what, lambda: self._token_from(realm, headers, body, allowed, what))
        except StatusError as refused:
            # To exchange an identity token takes a POST, which not every service has.
            if refused.status in {400, 401, 403, 404} or (refused.status == 405 and known.identity_token):
                raise self.translate_error(StatusError(403, realm, {}), what) from refused
            raise Unreachable(f"{what}: {host(realm)} gives no token ({refused.status})") from refused
        remember(token)
        return token

    def _token_from(self, url: str, headers: Headers, body: bytes | None, allowed: Guard, what: str) -> str:
        """The answer of a token service. No redirect is followed, with credentials or without."""
        from lora_cli.sources.http_transport import send

        timeout_s, method = self._http.timeout_s, "GET" if body is None else "POST"
        with closing(send(url, headers, timeout_s, allowed, method=method, body=body)) as response:
            if response.status in (408, 429) or response.status >= 500:
                raise from_status(host(url), response.status, response.headers)
            if response.status != 200:
                raise StatusError(response.status, url, response.headers)
            try:
                return parse_json(bounded_body(response, timeout_s, what, TOKEN_CAP, "no token is larger"), _token_in)
            except ValueError as error:
                raise Transient("the response is not JSON", hint="check for a proxy in between") from error

    def _check_realm(self, realm: str, known: Credentials, what: str) -> None:
        """Whether a token may be asked for there: over https, or at a registry of this machine on it."""
        try:
            parts = urlsplit(realm)
            usable = parts.hostname and parts.port != 0 and "@" not in parts.netloc and len(realm) <= LONGEST_LINK
        except ValueError:
            usable = False
        if not usable or not re.fullmatch(r"https?://[!-~]+", realm) or "#" in realm:
            raise Unreachable(f"{what}: {host(self.url)} asks for a token of no web address", hint="tell its owner")
        plain = realm.startswith("http://")
        if plain and (self.url.startswith("https://") or (known is not NOBODY and not is_encrypted(realm))):
            reason = f"{what}: {host(self.url)} asks for a token of {host(realm)}, without encryption"
            raise Refused(reason, hint="use a registry that stays on https")


def _token_in(answer: Any) -> str:
    token = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
    if not isinstance(token, str) or not BEARER.fullmatch(token):
        raise Transient("the response contains no token", hint="check that it is an OCI registry")
    return token


def parse_manifest(data: bytes, digest: str, content_type: str, what: str) -> Manifest:
    """The manifest in ``data``; ``content_type`` decides where it does not name its own type.

    Raises:
        Refused: it is malformed, or of a kind that is not read.
    """
    try:
        value = parse_json((data,), dict)
    except ValueError as error:
        raise Refused(f"{what}: its manifest is not JSON within the limits: {error}", hint=PUSHED_WRONG) from error
    media_type = value.get("mediaType") or content_type.partition(";")[0].strip()
    layers, manifests = value.get("layers"), value.get("manifests")
    is_index = media_type in {OCI_INDEX, DOCKER_LIST}
    # One that is both means different things to different readers (CVE-2021-41190).
    fits = (manifests, layers) if is_index else (layers, manifests)
    if media_type not in ACCEPT.split(", ") or not isinstance(fits[0], list) or fits[1] is not None:
        raise Refused(f"{what}: {media_type!r:.100} is not a manifest or index that can be read", hint=PUSHED_WRONG)
    if len(fits[0]) > MOST_DESCRIPTORS:
        raise Refused(
            f"{what}: its manifest lists over {MOST_DESCRIPTORS} blobs", hint="an adapter has only a few files"
        )
    listed = tuple(_descriptor(one, what) for one in fits[0])
    return Manifest(
        digest,
        media_type,
        artifact_type=_text(value.get("artifactType")),
        config=None if is_index else _descriptor(value.get("config"), what),
        layers=() if is_index else listed,
        manifests=listed if is_index else (),
    )


def _descriptor(value: Any, what: str) -> Descriptor:
    size = value.get("size") if isinstance(value, dict) else None
    digest = _text(value.get("digest")) if isinstance(value, dict) else ""
    if type(size) is not int or not 0 <= size < 1 << 63 or not OCI_DIGEST.fullmatch(digest):
        raise Refused(f"{what}: its manifest lists a blob without size or sha256", hint=PUSHED_WRONG)
    return Descriptor(
        _text(value.get("mediaType")),
        digest,
        size,
        _texts(value.get("annotations")),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> Mapping[str, str]:
    return {key: one for key, one in value.items() if isinstance(one, str)} if isinstance(value, dict) else {}
