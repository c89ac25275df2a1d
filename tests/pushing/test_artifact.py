"""The bytes of an artifact: what the specifications want, and the same everywhere."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from lora_cli.core.inspection import Inspection, inspection_of
from lora_cli.core.snapshot import Blob, Snapshot, snapshot_digest
from lora_cli.pushing.artifact import Artifact, Part, image, model_pack, referrer
from lora_cli.reading.adapter import read_adapter
from lora_cli.sources.local import snapshot_at
from tests.making import write_adapter


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    folder = write_adapter(tmp_path / "sql")
    (folder / "README.md").write_text("# sql\n")
    (folder / "deep/er").mkdir(parents=True)
    (folder / "deep/er/added_tokens.json").write_text("{}")
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = {
        str(path.relative_to(folder)): Blob(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
        for path in paths
    }
    return Snapshot(snapshot_digest(files.items()), folder, files)


@pytest.fixture
def inspection(snapshot: Snapshot) -> Inspection:
    return inspection_of(read_adapter(*snapshot_at(snapshot.directory), "sql"))


def data(part: Part) -> bytes:
    """Its bytes, which are what its descriptor says."""
    found = b"".join(part.content())
    assert part.size == len(found)
    assert part.digest == f"sha256:{hashlib.sha256(found).hexdigest()}"
    return found


def digests(artifact: Artifact) -> list[str]:
    return [part.digest for part in (*artifact.blobs, *artifact.manifests)]


def test_a_model_pack_has_each_file_as_it_is(snapshot: Snapshot, inspection: Inspection) -> None:
    pack = model_pack(snapshot, inspection, "sql")
    *layers, config = pack.blobs
    manifest = json.loads(data(pack.top))
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert [
        (one["annotations"]["org.cncf.model.filepath"], one["mediaType"].removeprefix("application/vnd.cncf.model."))
        for one in manifest["layers"]
    ] == [
        ("README.md", "doc.v1.raw"),
        ("adapter_config.json", "weight.config.v1.raw"),
        ("adapter_model.safetensors", "weight.v1.raw"),
        ("deep/er/added_tokens.json", "weight.config.v1.raw"),
    ]
    assert [data(layer) for layer in layers] == [
        (snapshot.directory / path).read_bytes() for path in sorted(snapshot.files)
    ]
    described = json.loads(data(config))
    assert set(described) == {"descriptor", "config", "modelfs"}
    assert described["config"] == {"format": "safetensors", "precision": "float32"}
    assert described["modelfs"] == {"type": "layers", "diffIds": [layer.digest for layer in layers]}


def test_the_manifest_says_what_the_adapter_is(snapshot: Snapshot, inspection: Inspection) -> None:
    told = json.loads(data(model_pack(snapshot, inspection, "sql").top))["annotations"]
    assert told["lora-cli.base-model"] == "tiny/base"
    assert told["lora-cli.rank"] == "4"
    assert told["lora-cli.target-modules"] == ",".join(sorted(inspection.targets)) != ""
    assert told["lora-cli.snapshot"] == snapshot.digest


def test_an_image_has_the_files_under_models_and_nothing_of_this_machine(
    snapshot: Snapshot, inspection: Inspection
) -> None:
    made = image(snapshot, inspection)
    index = json.loads(data(made.top))
    assert [one["platform"] for one in index["manifests"]] == [
        {"architecture": one, "os": "linux"} for one in ("amd64", "arm64")
    ]
    parts = {part.digest: part for part in (*made.blobs, *made.manifests)}
    for entry in index["manifests"]:
        manifest = json.loads(data(parts[entry["digest"]]))
        config = json.loads(data(parts[manifest["config"]["digest"]]))
        assert (config["os"], config["architecture"]) == ("linux", entry["platform"]["architecture"])
        assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
        files = {}
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=io.BytesIO(data(parts[layer["digest"]]))) as tar:
                for member in tar.getmembers():
                    assert member.isdir() or member.isfile()
                    assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
                    if member.isfile():
                        files[member.name] = tar.extractfile(member).read()  # type: ignore[union-attr]
        assert files == {f"models/{path}": (snapshot.directory / path).read_bytes() for path in snapshot.files}


@pytest.mark.parametrize("path", ["a" * 90 + "/" + "b" * 90, "naïve.json"])
def test_long_and_foreign_names_are_in_a_layer_whole(tmp_path: Path, inspection: Inspection, path: str) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_bytes(b"{}")
    files = {path: Blob(hashlib.sha256(b"{}").hexdigest(), 2)}
    made = image(Snapshot("", tmp_path, files), inspection)
    with tarfile.open(fileobj=io.BytesIO(data(made.blobs[0]))) as tar:
        assert tar.getnames()[-1] == f"models/{path}"


def test_the_same_files_give_the_same_digests(snapshot: Snapshot, inspection: Inspection) -> None:
    for path in snapshot.files:
        (snapshot.directory / path).touch()
    assert digests(model_pack(snapshot, inspection, "sql")) == digests(model_pack(snapshot, inspection, "sql"))
    assert digests(image(snapshot, inspection)) == digests(image(snapshot, inspection))


def test_a_referrer_names_its_subject(snapshot: Snapshot, inspection: Inspection) -> None:
    pack = model_pack(snapshot, inspection, "sql")
    made = referrer(pack.top, "application/vnd.in-toto.bundle", b"line\n")
    manifest = json.loads(data(made.top))
    assert manifest["artifactType"] == "application/vnd.in-toto.bundle"
    assert manifest["subject"]["digest"] == pack.top.digest
    assert [data(part) for part in made.blobs] == [b"{}", b"line\n"]
