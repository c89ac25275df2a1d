"""Artifacts in OCI registries: a file is a layer, or a member of a layer that is a tar."""

import os
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from lora_cli.core.adapter_files import CONFIG
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import Corrupt, NotFound, Refused, UsageError
from lora_cli.settings import Settings
from lora_cli.sources.docker_config import NOBODY, Credentials, credentials_of, find_credentials
from lora_cli.sources.http import Http, Piece, host
from lora_cli.sources.listed_paths import ListingBudget, check_listed
from lora_cli.sources.oci_layers import Member, Unpacked, Unpacker, compression_of
from lora_cli.sources.oci_registry import Descriptor, Manifest, RegistryClient, registry_endpoint
from lora_cli.sources.retries import Retries
from lora_cli.sources.ssrf_guard import allows_private
from lora_cli.sources.tokens import token_of

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule

MOST_INDEXES = 3
"""How deep an index may be in others."""

MOST_KEPT = 64
"""So many of the last manifests are kept for the reads that follow."""

FILEPATH, TITLE = "org.cncf.model.filepath", "org.opencontainers.image.title"
ORAS_FOLDER = "io.deis.oras.content.unpack"
_IMAGES = frozenset({"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"})
_MODELS = ("application/vnd.cncf.model.", "application/vnd.kitops.modelkit.")
"""Layouts whose media types say what is a tar: CNCF ModelPack, KitOps."""

_UNPACKED = "unpacked:"


def split_location(location: str) -> tuple[str, str]:
    """Repository and tag of the location of a reference; without a tag it is ``latest``."""
    repository, _, tag = location.partition("/")[2].partition(":")
    return repository, tag or "latest"


class OciSource:
    """OCI registries as a source. A revision is the digest of the manifest, or index, that the tag names.

    A layer that is one file is read by range, and its digest is that of the file. Layers that are tars are unpacked
    when they are first listed, and kept until they were read.
    """

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        """Opens no connection and reads no credentials yet; ``rule`` says where requests go, and with whose token."""
        self._settings, self._rule = settings, rule
        self._lock = threading.Lock()
        self._clients: dict[tuple[str, str], RegistryClient] = {}
        self._manifests: OrderedDict[tuple[str, str], Manifest] = OrderedDict()
        self._unpacked: OrderedDict[str, Unpacked] = OrderedDict()
        self._unpacking: dict[str, threading.Lock] = {}

    def pin(self, ref: AdapterRef) -> AdapterRef:
        """``ref`` at the digest that its tag names now: one request, which lists nothing."""
        return replace(ref, revision=self._top(ref).digest)

    def resolve(self, ref: AdapterRef) -> Revision:
        """The manifest that the reference names now, and its files. Layers that are tars are downloaded for that.

        Raises:
            NotFound: there is no such repository, tag or folder, or no files.
            AccessDenied: the registry does not give it to this user.
            Refused: a path could not be written, a bound is passed, or it is malformed.
            UsageError: it is a container image, or an index of several artifacts.
            Corrupt: a manifest or layer is not what its digest says.
            Unreachable: network or server, after the retries.
        """
        what, top, client = str(ref), self._top(ref), self._client(ref)
        folder, files = _below(ref.subfolder, self._files(client, self._picked(ref, top), what))
        if not files:
            where = f"in its folder {ref.subfolder}" if ref.subfolder else "in it"
            raise NotFound(f"{what}: there are no files {where}", hint="check what was pushed: oras manifest fetch")
        check_listed((file.path for file in files), what)
        # Policies may have rules for the folder.
        return Revision(replace(ref, subfolder=folder), top.digest, tuple(sorted(files, key=lambda file: file.path)))

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` of a file, in chunks of at most 1 MiB.

        Raises:
            NotFound: the registry has deleted it.
            AccessDenied: the registry does not give it to this user.
            Corrupt: it has another size.
            Unreachable: network or server, after the retries.
        """
        if not file.size:
            return
        ref, what = revision.ref, f"{revision.ref}: {file.path}"
        client = self._client(ref)
        if not file.locator.startswith(_UNPACKED):
            yield from client.read_blob(file.locator, Piece(start, stop, file.size), what)
            return
        manifest = self._picked(ref, self._manifest(ref, revision.id))
        offset = int(file.locator.removeprefix(_UNPACKED))
        unpacked = self._unpack(client, manifest, what)
        for piece in unpacked.read(offset, file.size, start, stop):
            unpacked.unread -= len(piece)
            yield piece
        if unpacked.unread <= 0:
            # As much as there is was read: a server that runs for long does not keep what it has fetched.
            with self._lock:
                self._unpacked.pop(manifest.digest, None)

    def _client(self, ref: AdapterRef) -> RegistryClient:
        mirror = self._rule.endpoint_url if self._rule is not None else None
        endpoint, repository = mirror or registry_endpoint(ref.location), split_location(ref.location)[0]
        settings, key = self._settings, (endpoint, repository)
        with self._lock:
            if key not in self._clients:
                http = Http(
                    endpoint.rstrip("/"),
                    settings.timeout_s,
                    Retries(settings.retries),
                    private=allows_private(settings),
                )
                credentials = partial(self._credentials, ref.location, endpoint, repository)
                self._clients[key] = RegistryClient(http, repository, credentials)
            return self._clients[key]

    def _credentials(self, location: str, endpoint: str, repository: str) -> Credentials:
        """Those that the rule names, else Docker's for that server."""
        rule = self._rule
        if rule is not None and rule.token_env:
            user, colon, password = token_of(rule, os.environ).partition(":")
            if colon:
                return credentials_of(user, password, found_in=rule.token_env)
            return credentials_of(registry_token=user, found_in=rule.token_env)
        if rule is not None and rule.anonymous:
            return NOBODY
        return find_credentials(host(endpoint), repository, os.environ)

    def _top(self, ref: AdapterRef) -> Manifest:
        """The manifest or index that the reference names now."""
        client = self._client(ref)
        found = client.manifest(ref.revision or split_location(ref.location)[1], str(ref))
        with self._lock:
            self._manifests[client.url, found.digest] = found
            while len(self._manifests) > MOST_KEPT:
                self._manifests.popitem(last=False)
        return found

    def _manifest(self, ref: AdapterRef, digest: str) -> Manifest:
        """The manifest ``digest`` in the repository of the reference, of the last ones or from the registry."""
        url = self._client(ref).url
        with self._lock:
            kept = self._manifests.get((url, digest))
        return kept or self._top(replace(ref, revision=digest))

    def _picked(self, ref: AdapterRef, manifest: Manifest) -> Manifest:
        """The manifest itself, or the only one of an index."""
        for _ in range(MOST_INDEXES + 1):
            if not manifest.is_index:
                return manifest
            listed = manifest.manifests
            if len(listed) != 1:
                several = ", ".join(one.digest for one in listed[:5]) or "nothing"
                registry, repository = ref.location.partition("/")[0], split_location(ref.location)[0]
                hint = f"choose one by its digest: oci://{registry}/{repository}@sha256:…"
                raise UsageError(f"{ref}: this is an index of {len(listed)} manifests ({several})", hint=hint)
            manifest = self._manifest(ref, listed[0].digest)
        raise Refused(f"{ref}: an index in over {MOST_INDEXES} others", hint="push the artifact itself")

    def _files(self, client: RegistryClient, manifest: Manifest, what: str) -> list[RemoteFile]:
        """The files of all layers: those that are one file each, and those of tars."""
        if not manifest.artifact_type and manifest.config is not None and manifest.config.media_type in _IMAGES:
            raise UsageError(f"{what}: this is a container image", hint="push the adapter's files alone: oras push")
        files = list[RemoteFile]()
        budget = ListingBudget(what, "push each adapter as an artifact of its own")
        has_tars = False
        for layer in manifest.layers:
            if _is_tar(layer, what):
                has_tars = True
                continue
            path = layer.annotations.get(FILEPATH) or layer.annotations.get(TITLE) or ""
            budget.take(path)
            if path:
                files.append(_file(path, layer))
        if has_tars:
            files += map(_unpacked_file, self._unpack(client, manifest, what).members)
        return files

    def _unpack(self, client: RegistryClient, manifest: Manifest, what: str) -> Unpacked:
        """The unpacked tars of an artifact: once for all that ask at the same time, and kept for a while."""
        layers = [layer for layer in manifest.layers if _is_tar(layer, what)]

        def blob(layer: Descriptor) -> Generator[bytes, None, None]:
            yield from client.read_blob(layer.digest, Piece(0, layer.size, layer.size), what)

        with self._lock:
            turn = self._unpacking.setdefault(manifest.digest, threading.Lock())
        with turn:
            with self._lock:
                known = self._unpacked.get(manifest.digest)
            if known is None:
                try:
                    known = Unpacker(self._settings, what).unpack(layers, blob)
                except Corrupt:
                    known = Unpacker(self._settings, what).unpack(layers, blob)
            with self._lock:
                self._unpacked[manifest.digest] = known
                self._unpacked.move_to_end(manifest.digest)
                # One for each adapter that may be in flight.
                while len(self._unpacked) > self._settings.jobs:
                    self._unpacked.popitem(last=False)
            return known


def _is_tar(layer: Descriptor, what: str) -> bool:
    """Whether a layer is a tar of files. The media type of a plain file that ORAS pushes says so too, by default.

    Raises:
        Refused: it is one that is compressed in a way that is not read.
    """
    compression, annotations = compression_of(layer.media_type), layer.annotations
    by_itself = layer.media_type.startswith(_MODELS) or not annotations.get(TITLE)
    is_tar = compression is not None and (by_itself or annotations.get(ORAS_FOLDER) == "true")
    if is_tar and compression not in {"", "gzip"}:
        raise Refused(f"{what}: a layer is compressed with {compression}", hint="push it as a tar, plain or with gzip")
    return is_tar


def _file(path: str, layer: Descriptor) -> RemoteFile:
    """A layer that is one file; ``./`` in its path means nothing."""
    path = "/".join(part for part in path.split("/") if part != ".")
    return RemoteFile(path, layer.size, layer.digest.removeprefix("sha256:"), locator=layer.digest)


def _unpacked_file(member: Member) -> RemoteFile:
    if member.defect:
        return RemoteFile(member.path, None, defect=member.defect)
    return RemoteFile(member.path, member.size, member.sha256, locator=f"{_UNPACKED}{member.offset}")


def _below(folder: str, files: list[RemoteFile]) -> tuple[str, list[RemoteFile]]:
    """A folder and the files below it; without one, the only folder with an adapter, if none is at the root."""
    if not folder:
        found = [file.path for file in files if file.path.rpartition("/")[2] == CONFIG]
        folder = found[0].rpartition("/")[0] if len(found) == 1 else ""
    inside = f"{folder}/" if folder else ""
    return folder, [
        replace(file, path=file.path.removeprefix(inside)) for file in files if file.path.startswith(inside)
    ]
