"""An adapter as an OCI artifact: a ModelPack with one raw layer for each file, or an image for Kubernetes volumes.

The same files give the same bytes, and so the same digest, wherever and whenever they are pushed.
ModelPack: https://github.com/modelpack/model-spec (v0.0.7); image: https://github.com/opencontainers/image-spec (1.1).
"""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lora_cli.core.inspection import Inspection
from lora_cli.core.snapshot import Snapshot
from lora_cli.sources.oci import FILEPATH, TITLE
from lora_cli.sources.oci_registry import OCI_INDEX, OCI_MANIFEST

MODEL = "application/vnd.cncf.model"
MODEL_CONFIG = f"{MODEL}.config.v1+json"
MODEL_MANIFEST = f"{MODEL}.manifest.v1+json"
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
IMAGE_LAYER = "application/vnd.oci.image.layer.v1.tar"
PLATFORMS = ("amd64", "arm64")
"""Container runtimes take the image of a node's own architecture."""
EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"

ANNOTATIONS = "lora-cli"
"""How the names of annotations of our own begin: ``lora-cli.base-model`` …"""

CHUNK = 1 << 20
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt")
DOCUMENTS = ("readme", "license", "licence", "notice")

Content = Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Part:
    """A blob or a manifest: its descriptor's fields, and its bytes in chunks of at most 1 MiB."""

    media_type: str
    digest: str
    size: int
    content: Content
    annotations: Mapping[str, str] | None = None

    def descriptor(self, **more: Any) -> dict[str, Any]:
        """The descriptor of the image specification."""
        annotations = {"annotations": dict(self.annotations)} if self.annotations else {}
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size, **annotations, **more}


@dataclass(frozen=True, slots=True)
class Artifact:
    """What is pushed: ``blobs`` first, then the ``manifests``; the last of these is the one that gets the tag."""

    blobs: tuple[Part, ...]
    manifests: tuple[Part, ...]

    @property
    def top(self) -> Part:
        """The manifest or index that the artifact is named by."""
        return self.manifests[-1]


def model_pack(snapshot: Snapshot, inspection: Inspection, name: str) -> Artifact:
    """``snapshot`` as a ModelPack called ``name``. A layer's digest is the file's sha256: it can be read by range."""
    layers = [
        Part(
            _layer_type(path),
            f"sha256:{blob.sha256}",
            blob.size,
            _file(snapshot.directory / path),
            {FILEPATH: path, TITLE: path},
        )
        for path, blob in sorted(snapshot.files.items())
    ]
    config = {
        "descriptor": {"name": name},
        "config": _without_empty({"format": "safetensors", "precision": _precision(inspection)}),
        "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
    }
    return _artifact(layers, _part(MODEL_CONFIG, config), MODEL_MANIFEST, annotations_of(snapshot, inspection))


def image(snapshot: Snapshot, inspection: Inspection) -> Artifact:
    """``snapshot`` as an image with its files under ``/models``, for each architecture of ``PLATFORMS``.

    Kubernetes mounts it as a volume (``volumes[].image``), and KServe as a model car.
    """
    layers = [_tar_layer(path, snapshot.directory / path, blob.size) for path, blob in sorted(snapshot.files.items())]
    annotations = annotations_of(snapshot, inspection)
    blobs, manifests, listed = list(layers), [], []
    for architecture in PLATFORMS:
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        }
        one = _artifact(layers, _part(IMAGE_CONFIG, config), "", annotations)
        blobs.append(one.blobs[-1])
        manifests.append(one.top)
        listed.append(one.top.descriptor(platform={"architecture": architecture, "os": "linux"}))
    return Artifact(tuple(blobs), (*manifests, index_of(listed, annotations)))


def referrer(subject: Part, media_type: str, data: bytes) -> Artifact:
    """An artifact with ``data`` (a signature, a verdict) that refers to ``subject``."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": media_type,
        "config": (empty := _bytes_part(EMPTY_TYPE, EMPTY)).descriptor(),
        "layers": [(blob := _bytes_part(media_type, data)).descriptor()],
        "subject": {"mediaType": subject.media_type, "digest": subject.digest, "size": subject.size},
    }
    return Artifact((empty, blob), (_part(OCI_MANIFEST, manifest),))


def index_of(manifests: Sequence[Mapping[str, Any]], annotations: Mapping[str, str] | None = None) -> Part:
    """An index of ``manifests``, which are descriptors."""
    told = {"annotations": dict(annotations)} if annotations else {}
    return _part(OCI_INDEX, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(manifests), **told})


def annotations_of(snapshot: Snapshot, inspection: Inspection) -> dict[str, str]:
    """What a registry shows of an adapter: base model, ranks, modules, and the digest of its files."""
    ours = {
        "base-model": inspection.base,
        "base-model-revision": inspection.base_revision,
        "rank": ",".join(map(str, sorted(inspection.ranks))),
        "target-modules": ",".join(sorted(inspection.targets)),
        "snapshot": snapshot.digest,
    }
    return {f"{ANNOTATIONS}.{key}": value for key, value in ours.items() if value}


def _artifact(layers: Sequence[Part], config: Part, artifact_type: str, annotations: Mapping[str, str]) -> Artifact:
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        **_without_empty({"artifactType": artifact_type}),
        "config": config.descriptor(),
        "layers": [layer.descriptor() for layer in layers],
        "annotations": dict(annotations),
    }
    return Artifact((*layers, config), (_part(OCI_MANIFEST, manifest),))


def _layer_type(path: str) -> str:
    name = path.rpartition("/")[2].lower()
    if name.endswith(WEIGHT_SUFFIXES):
        return f"{MODEL}.weight.v1.raw"
    kind = "doc" if name.startswith(DOCUMENTS) or name.endswith(".md") else "weight.config"
    return f"{MODEL}.{kind}.v1.raw"


def _precision(inspection: Inspection) -> str:
    """The dtypes as the specification spells them."""
    spelled = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    spelled |= {"F8_E4M3": "float8_e4m3", "F8_E5M2": "float8_e5m2"}
    return ",".join(sorted({spelled.get(dtype, dtype.lower()) for dtype in inspection.dtypes}))


def _tar_layer(path: str, file: Path, size: int) -> Part:
    """A layer with one file under ``/models`` and its folders, without times and owners."""
    folders = reversed(PurePosixPath("models", path).parents[:-1])
    before = b"".join(_tar_header(f"{folder}/", tarfile.DIRTYPE, 0o755, 0) for folder in folders)
    before += _tar_header(f"models/{path}", tarfile.REGTYPE, 0o644, size)
    after = bytes(-size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)

    def content() -> Iterator[bytes]:
        yield before
        yield from _file(file)()
        yield after

    digest = hashlib.sha256()
    for chunk in content():
        digest.update(chunk)
    return Part(IMAGE_LAYER, f"sha256:{digest.hexdigest()}", len(before) + size + len(after), content)


def _tar_header(name: str, kind: bytes, mode: int, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size = kind, mode, size
    return info.tobuf(tarfile.PAX_FORMAT)


def _file(path: Path) -> Content:
    def content() -> Iterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    return content


def _part(media_type: str, value: Mapping[str, Any]) -> Part:
    return _bytes_part(media_type, json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def _bytes_part(media_type: str, data: bytes) -> Part:
    return Part(media_type, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), lambda: iter([data]))


def _without_empty(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: one for key, one in value.items() if one}
