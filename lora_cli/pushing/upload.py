"""Uploads to an OCI registry (the distribution specification 1.1, "Push"): what is there already is not sent again."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote, urlencode, urlsplit

from lora_cli.core.reference import AdapterRef
from lora_cli.errors import Corrupt, NotFound, Offline, Refused, Unreachable
from lora_cli.pushing.artifact import Artifact, Part, index_of, referrer
from lora_cli.settings import Settings
from lora_cli.sources.docker_config import find_credentials
from lora_cli.sources.http import Http, StatusError, authorization, host, redirect_guard, redirect_target
from lora_cli.sources.http_transport import Response, send
from lora_cli.sources.oci import split_location
from lora_cli.sources.oci_registry import RegistryClient, registry_endpoint
from lora_cli.sources.retries import Retries, from_status
from lora_cli.sources.ssrf_guard import bounds_of, check_host

STREAM = "application/octet-stream"


@dataclass(slots=True)
class Uploaded:
    """How much was sent: blobs and their bytes, those that were there, and those taken from another repository."""

    sent: int = 0
    sent_bytes: int = 0
    present: int = 0
    mounted: int = 0


def registry_client(to: AdapterRef, settings: Settings) -> RegistryClient:
    """A client that may push to the repository of ``to``, with the credentials of Docker or Podman.

    Raises:
        Offline: offline mode is on.
        Refused: a policy denies the host, or allows others only.
    """
    if settings.offline:
        raise Offline(f"{to}: nothing is pushed in offline mode", hint="remove --offline, and unset LORA_CLI_OFFLINE")
    server, repository = to.location.partition("/")[0], split_location(to.location)[0]
    endpoint, bounds = registry_endpoint(to.location), bounds_of(settings)
    check_host(bounds, urlsplit(endpoint).hostname or "", str(to))
    credentials = partial(find_credentials, server, repository, os.environ)
    http = Http(endpoint, settings.timeout_s, Retries(settings.retries), bounds=bounds)
    return RegistryClient(http, repository, credentials, actions="pull,push")


def upload(client: RegistryClient, artifact: Artifact, tag: str, what: str, mount_from: str = "") -> Uploaded:
    """Uploads ``artifact``; its last manifest gets ``tag``, or none if that is "".

    ``mount_from`` is a repository of the same registry that may have the blobs already.

    Raises:
        AccessDenied, NotFound, Unreachable: the registry does not accept it.
        Corrupt: the registry has another digest for what was sent.
    """
    count = Uploaded()
    with _translated(client, what):
        for blob in {blob.digest: blob for blob in artifact.blobs}.values():
            _upload_blob(client, blob, mount_from, count, what)
        for manifest in artifact.manifests:
            _put_manifest(client, manifest, tag if tag and manifest is artifact.top else manifest.digest, what)
    return count


def attach(client: RegistryClient, subject: Part, media_type: str, data: bytes, what: str) -> None:
    """Uploads ``data`` as a referrer of the manifest ``subject``, unless it is one already.

    A registry without the referrers API gets the list of referrers as a manifest with the specification's tag. Of
    two processes that write that list at the same moment, the last one wins.

    Raises:
        LoraCliError: as ``upload``.
    """
    made = referrer(subject, media_type, data)
    with _translated(client, what):
        for blob in made.blobs:
            _upload_blob(client, blob, "", Uploaded(), what)
        answer = _put_manifest(client, made.top, made.top.digest, what)
        if answer.headers.get("OCI-Subject"):
            return
        tag = subject.digest.replace(":", "-")
        listed = []
        with suppress(NotFound):
            found = client.manifest(tag, what)
            if not found.is_index:
                raise Refused(f"{what}: its tag {tag} is no list of referrers", hint="remove that tag, and push again")
            listed = json.loads(found.data)["manifests"]
        if made.top.digest not in [one["digest"] for one in listed]:
            listed.append(made.top.descriptor(artifactType=media_type))
            _put_manifest(client, index_of(listed), tag, what)


@contextmanager
def _translated(client: RegistryClient, what: str) -> Iterator[None]:
    try:
        yield
    except StatusError as error:
        raise client.translate_error(error, what) from error


def _upload_blob(client: RegistryClient, blob: Part, mount_from: str, count: Uploaded, what: str) -> None:
    if _exists(client, blob, what):
        count.present += 1
        return

    def send_by(http: Http, query: str) -> bool:
        """Whether the bytes were sent; where a try breaks off, the next begins again."""
        begun = _request(http, "POST", f"{client.url}/blobs/uploads/{query}", what)
        if begun.status == 201:
            return False
        if not (location := begun.headers.get("Location", "")):
            raise Unreachable(
                f"{what}: {host(begun.url)} answered an upload without a Location",
                hint="check that it is an OCI registry",
            )
        target = redirect_target(begun.url, location, what)
        target += ("&" if "?" in target else "?") + urlencode({"digest": blob.digest})
        headers = {"Content-Type": STREAM, "Content-Length": str(blob.size)}
        _request(http, "PUT", target, what, headers, blob.content(), begun)
        return True

    def send_all(query: str = "") -> bool:
        return client.call(what, lambda http: http.retries.call(what, lambda: send_by(http, query)))

    try:
        sent = send_all(f"?{urlencode({'mount': blob.digest, 'from': mount_from})}" if mount_from else "")
    except StatusError as error:
        # Some registries refuse a mount where they cannot do it, and do not begin an upload instead.
        if not mount_from or error.status not in {401, 403, 404}:
            raise
        sent = send_all()
    if sent:
        count.sent += 1
        count.sent_bytes += blob.size
    else:
        count.mounted += 1


def _exists(client: RegistryClient, blob: Part, what: str) -> bool:
    url = f"{client.url}/blobs/{blob.digest}"
    try:
        client.call(what, lambda http: http.retries.call(what, lambda: _request(http, "HEAD", url, what)))
    except StatusError as error:
        # A redirect leads to the bytes: they are there.
        if error.status not in {301, 302, 303, 307, 308, 404}:
            raise
        return error.status != 404
    return True


def _put_manifest(client: RegistryClient, manifest: Part, reference: str, what: str) -> Response:
    url, body = f"{client.url}/manifests/{quote(reference)}", b"".join(manifest.content())
    headers = {"Content-Type": manifest.media_type}
    done = client.call(
        what, lambda http: http.retries.call(what, lambda: _request(http, "PUT", url, what, headers, body))
    )
    if (said := done.headers.get("Docker-Content-Digest", manifest.digest)) != manifest.digest:
        raise Corrupt(f"{what}: {host(url)} stored the manifest {manifest.digest} as {said!r:.100}")
    return done


def _request(
    http: Http,
    method: str,
    url: str,
    what: str,
    headers: dict[str, str] | None = None,
    body: bytes | Iterable[bytes] | None = None,
    redirected: Response | None = None,
) -> Response:
    """An answer below 300, closed. ``redirected`` is the answer that named ``url``, which may be on another host."""
    allowed = redirect_guard(http, redirected.peer, redirected.url, url, what) if redirected is not None else None
    own = authorization(http, url)
    with closing(send(url, {**(headers or {}), **own}, http.timeout_s, allowed, method=method, body=body)) as response:
        if response.status in (408, 429) or response.status >= 500:
            raise from_status(host(url), response.status, response.headers)
        if response.status >= 300:
            raise StatusError(response.status, url, response.headers, response.peer)
        return response
