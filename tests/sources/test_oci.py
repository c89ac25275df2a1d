"""Adapters in a registry: the layouts, what ORAS pushes, indexes, credentials, and what is kept of a tar."""

import hashlib
import os
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_cli.core.reference import AdapterRef, parse
from lora_cli.core.snapshot import Revision
from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import AccessDenied, NotFound, Refused, UsageError
from lora_cli.fetching.pipeline import Fetched
from lora_cli.settings import Settings
from lora_cli.sources.oci import OciSource
from lora_cli.store import Store
from tests.bringing import bring
from tests.faulty_proxy import FaultyProxy
from tests.oci_server import OCI_INDEX, USER, Registry, htpasswd, log_in, registry, tar_of
from tests.processes import needed
from tests.sources.raw_servers import forget_environment

pytestmark = pytest.mark.slow

CERTIFICATE = Path(__file__).parent / "tls/localhost.pem"
CONFIG, WEIGHTS = b'{"peft_type": "LORA"}', os.urandom(200_000)
FILES = {"adapter_config.json": CONFIG, "adapter_model.safetensors": WEIGHTS}
BELOW = {f"run/{path}": data for path, data in FILES.items()}
MODELPACK = "application/vnd.cncf.model.config.v1+json"
IMAGE = "application/vnd.oci.image.config.v1+json"
TAR = "application/vnd.oci.image.layer.v1.tar"
KITOPS_TAR = "application/vnd.kitops.modelkit.model.v1.tar"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "cache", timeout_s=5, retries=2, keep_free=0)


def ref_to(server: Registry, name: str) -> AdapterRef:
    return parse(f"oci://{server.place}/{name}", is_path=lambda _: False)


def read_all(source: OciSource, revision: Revision) -> dict[str, bytes]:
    return {file.path: b"".join(source.read(revision, file, 0, None)) for file in revision.files}


def files_at(server: Registry, name: str, settings: Settings) -> dict[str, bytes]:
    """All that is listed, read whole; a listed digest is true."""
    source = OciSource(settings)
    revision = source.resolve(ref_to(server, name))
    files = read_all(source, revision)
    assert {file.path: file.sha256 for file in revision.files} == {
        path: hashlib.sha256(data).hexdigest() for path, data in files.items()
    }
    return files


def put(server: Registry, layers: list[dict[str, Any]], config: str = "", **manifest: str) -> str:
    """An artifact with these layers, whose blobs are there; its name and tag."""
    name = layers[0].pop("repository")
    told = server.config(name, config) if config else server.config(name)
    server.manifest(f"{name}:v1", {**manifest, "config": told, "layers": layers})
    return f"{name}:v1"


def layers_of(server: Registry, *layers: tuple[bytes, str, Mapping[str, str]]) -> list[dict[str, Any]]:
    name = server.name()
    made = [{**server.layer(name, data, kind), "annotations": dict(annotations)} for data, kind, annotations in layers]
    return [{**made[0], "repository": name}, *made[1:]]


def test_modelpack_has_files_and_tars_of_two_kinds(oci_registry: Registry, settings: Settings) -> None:
    kind, path = "application/vnd.cncf.model", "org.cncf.model.filepath"
    layers = layers_of(
        oci_registry,
        (WEIGHTS, f"{kind}.weight.v1.raw", {path: "./adapter_model.safetensors"}),
        (tar_of({"adapter_config.json": CONFIG}), f"{kind}.weight.config.v1.tar", {path: "adapter_config.json"}),
        (tar_of({"README.md": b"# SQL"}, "gzip"), f"{kind}.doc.v1.tar+gzip", {path: "README.md"}),
        (tar_of({"./data/a.txt": b"a"}), f"{kind}.dataset.v1.tar", {path: "data"}),
    )
    name = put(oci_registry, layers, MODELPACK, artifactType="application/vnd.cncf.model.manifest.v1+json")
    assert files_at(oci_registry, name, settings) == {**FILES, "README.md": b"# SQL", "data/a.txt": b"a"}


def test_kitops_has_tars_and_the_folder_of_the_only_adapter_is_its_root(
    oci_registry: Registry, settings: Settings
) -> None:
    kind = "application/vnd.kitops.modelkit"
    layers = layers_of(
        oci_registry,
        (tar_of(BELOW), f"{kind}.modelpart.v1.tar", {}),
        (tar_of({"README.md": b"# SQL"}, "gzip"), f"{kind}.docs.v1.tar+gzip", {}),
    )
    name = put(oci_registry, layers, f"{kind}.config.v1+json")
    assert files_at(oci_registry, name, settings) == FILES
    assert files_at(oci_registry, f"{name}//run", settings) == FILES
    with pytest.raises(NotFound, match="folder gone"):
        files_at(oci_registry, f"{name}//gone", settings)


def test_an_image_is_no_artifact(oci_registry: Registry, settings: Settings) -> None:
    for image in (IMAGE, "application/vnd.docker.container.image.v1+json"):
        name = put(oci_registry, layers_of(oci_registry, (tar_of(FILES), TAR, {})), image)
        with pytest.raises(UsageError, match="a container image"):
            files_at(oci_registry, name, settings)


def test_the_config_of_an_artifact_is_no_file(oci_registry: Registry, settings: Settings) -> None:
    name = put(oci_registry, layers_of(oci_registry, (b"x", "text/plain", {})))
    with pytest.raises(NotFound, match="there are no files"):
        files_at(oci_registry, name, settings)


@pytest.fixture
def oras(oci_registry: Registry, tmp_path: Path) -> Any:
    """Runs Debian's oras in a folder with ``FILES``."""
    needed("oras")
    folder = tmp_path / "pushed"
    (folder / "run").mkdir(parents=True)
    for path, data in {**FILES, **BELOW}.items():
        (folder / path).write_bytes(data)

    def run(*words: str) -> None:
        subprocess.run(["oras", *words], cwd=folder, check=True, capture_output=True)

    return run


def test_what_oras_pushes_is_read(oras: Any, oci_registry: Registry, settings: Settings) -> None:
    name = f"{oci_registry.name()}:v1"
    place = f"{oci_registry.place}/{name}"
    oras("push", "--plain-http", place, *FILES)
    assert files_at(oci_registry, name, settings) == FILES
    oras("push", "--plain-http", place, "run")
    assert files_at(oci_registry, name, settings) == FILES
    oras("push", "--plain-http", place, "run", "adapter_config.json:application/json")
    found = files_at(oci_registry, name, settings)
    assert found == {"adapter_config.json": CONFIG, **BELOW}
    assert files_at(oci_registry, f"{name}//run", settings) == FILES
    old = ("--image-spec", "v1.0", "--config", "adapter_config.json:application/vnd.acme.lora+json")
    oras("push", "--plain-http", *old, place, *FILES)
    assert files_at(oci_registry, name, settings) == FILES


def test_header_only_reads_of_a_plain_layer_are_ranges(docker_registry: Registry, settings: Settings) -> None:
    name = docker_registry.name()
    docker_registry.push(f"{name}:v1", FILES)
    with FaultyProxy(docker_registry.place) as proxy:
        source = OciSource(settings)
        revision = source.resolve(ref_to(Registry(proxy.place), f"{name}:v1"))
        file = revision.file("adapter_model.safetensors")
        assert file is not None
        assert b"".join(source.read(revision, file, 8, 1000)) == WEIGHTS[8:1000]
        assert [asked.line.rpartition(" ")[2] for asked in proxy.asked] == ["", "bytes=8-999"]


def test_an_index_of_one_artifact_is_that_artifact(oci_registry: Registry, settings: Settings) -> None:
    name = oci_registry.name()
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1}
    adapter = {**entry, "digest": oci_registry.push(f"{name}:v1", FILES)}
    other = {**entry, "digest": oci_registry.push(f"{name}:v2", {"README.md": b""})}
    digest = oci_registry.manifest(f"{name}:one", {"manifests": [adapter]}, OCI_INDEX)
    assert OciSource(settings).resolve(ref_to(oci_registry, f"{name}:one")).id == digest
    assert files_at(oci_registry, f"{name}:one", settings) == FILES
    for tag, manifests in (("two", [adapter, other]), ("none", [])):
        oci_registry.manifest(f"{name}:{tag}", {"manifests": manifests}, OCI_INDEX)
        with pytest.raises(UsageError, match=f"an index of {len(manifests)} manifests") as caught:
            files_at(oci_registry, f"{name}:{tag}", settings)
        assert f"oci://{oci_registry.place}/{name}@sha256:" in caught.value.hint
        listed = [str(one["digest"]) for one in manifests]
        assert f"({', '.join(listed) or 'nothing'})" in caught.value.message


def fetched(server: Registry, name: str, settings: Settings) -> Fetched:
    return bring(ref_to(server, name), OciSource(settings), Store(settings.cache_dir), settings)


def test_a_tag_that_is_cached_costs_one_request(docker_registry: Registry, settings: Settings) -> None:
    name = docker_registry.name()
    layer = docker_registry.layer(name, tar_of(FILES), KITOPS_TAR)
    put(docker_registry, [{"repository": name, **layer}])
    with FaultyProxy(docker_registry.place) as proxy:
        server = Registry(proxy.place)
        first = fetched(server, f"{name}:v1", settings)
        assert {path.name: path.read_bytes() for path in first.snapshot.directory.iterdir()} == FILES
        assert len([asked for asked in proxy.asked if "/blobs/" in asked.line]) == 1
        proxy.mend()
        again = fetched(server, f"{name}:v1", settings)
        assert (again.snapshot, again.revision, again.cached) == (first.snapshot, first.revision, True)
        assert len(proxy.asked) == 1
        pinned = fetched(server, f"{name}:v1@{first.revision}", settings)
        assert (pinned.snapshot, pinned.cached) == (first.snapshot, True)
        assert len(proxy.asked) == 1
        offline = fetched(server, f"{name}:v1", replace(settings, offline=True))
        assert offline.snapshot == first.snapshot
        docker_registry.push(f"{name}:v1", {**FILES, "adapter_config.json": b"{}"})
        assert fetched(server, f"{name}:v1", settings).revision != first.revision


def test_a_mirror_of_a_rule_is_asked_instead(oci_registry: Registry, settings: Settings) -> None:
    name = oci_registry.name()
    oci_registry.push(f"proxy/{name}:v1", FILES)
    rule = SourceRule(match="oci://ghcr.io/*", endpoint_url=f"http://{oci_registry.place}/proxy", anonymous=True)
    source = OciSource(settings, rule)
    revision = source.resolve(parse(f"oci://ghcr.io/{name}:v1", is_path=lambda _: False))
    assert read_all(source, revision) == FILES


def test_credentials_are_dockers_or_those_of_a_rule(
    docker_registry: Registry, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    forget_environment()
    name = docker_registry.name()
    docker_registry.push(f"{name}:v1", FILES)
    (tmp_path / "basic").mkdir()
    with registry(tmp_path / "basic", htpasswd(tmp_path / "basic"), CERTIFICATE, store=docker_registry.store) as server:
        ref = ref_to(server, f"{name}:v1")
        monkeypatch.setenv("LORA_CLI_TOKEN_REGISTRY", ":".join(USER))
        rule = SourceRule(match="oci://*", endpoint_url=f"https://{server.place}", token_env="LORA_CLI_TOKEN_REGISTRY")
        assert OciSource(settings, rule).resolve(ref).files
        log_in(Path(os.environ["DOCKER_CONFIG"]), server.place)
        rule = SourceRule(match="oci://*", endpoint_url=f"https://{server.place}")
        assert OciSource(settings, rule).resolve(ref).files
        with pytest.raises(AccessDenied):
            OciSource(settings, rule.model_copy(update={"anonymous": True})).resolve(ref)
    forget_environment()


def test_a_tar_that_is_compressed_otherwise_is_refused(oci_registry: Registry, settings: Settings) -> None:
    name = put(oci_registry, layers_of(oci_registry, (b"", f"{KITOPS_TAR}+zstd", {})))
    with pytest.raises(Refused, match="compressed with zstd"):
        files_at(oci_registry, name, settings)


def test_a_wrong_bit_in_a_tar_is_noticed_and_fetched_again(oci_registry: Registry, settings: Settings) -> None:
    name = put(oci_registry, layers_of(oci_registry, (tar_of(FILES), KITOPS_TAR, {})))
    with FaultyProxy(oci_registry.place) as proxy:
        proxy.fault("/blobs/", flip_at=100_000)
        assert files_at(Registry(proxy.place), name, settings) == FILES
        proxy.fault("/blobs/", reset_at=100_000)
        assert files_at(Registry(proxy.place), name, settings) == FILES


def temporary_files(folder: Path) -> list[str]:
    """The files without a name in a folder that this process has open."""
    opened = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    return [path for path in opened if path.startswith(str(folder)) and path.endswith("(deleted)")]


def test_what_is_not_kept_any_more_is_unpacked_again(oci_registry: Registry, settings: Settings) -> None:
    names = [
        put(oci_registry, layers_of(oci_registry, (tar_of({**FILES, "a": b"%d" % n}), KITOPS_TAR, {})))
        for n in range(2)
    ]
    source = OciSource(replace(settings, jobs=1))
    first, second = (source.resolve(ref_to(oci_registry, name)) for name in names)
    assert len(temporary_files(settings.cache_dir.parent)) == 1
    for _ in range(2):
        # Nothing is kept of what was read.
        assert read_all(source, first) == {**FILES, "a": b"0"}
        assert read_all(source, second) == {**FILES, "a": b"1"}
        assert temporary_files(settings.cache_dir.parent) == []


def test_links_and_devices_are_no_files(oci_registry: Registry, settings: Settings) -> None:
    def member(path: str, kind: bytes) -> tarfile.TarInfo:
        info = tarfile.TarInfo(path)
        info.type, info.linkname = kind, "/etc/passwd"
        return info

    kinds = {"a": tarfile.SYMTYPE, "b": tarfile.LNKTYPE, "c": tarfile.CHRTYPE, "d": tarfile.FIFOTYPE, "e": b"?"}
    data = tar_of(FILES, members=[member(path, kind) for path, kind in kinds.items()])
    revision = OciSource(settings).resolve(
        ref_to(oci_registry, put(oci_registry, layers_of(oci_registry, (data, KITOPS_TAR, {}))))
    )
    assert {file.path for file in revision.files if not file.defect} == {*FILES}
    assert [file.defect for file in revision.files if file.defect] == [
        "is a symbolic link", "is a hard link", "is a device", "is a FIFO", "is no regular file",
    ]  # fmt: skip


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_both_kinds_are_read(
    oci_registry: Registry, settings: Settings, tmp_path: Path, form: int
) -> None:
    long = {f"{'a' * 150}/{'ż' * 100}.txt": b"x", **FILES}
    with tarfile.open(tmp_path / "long.tar", "w", format=form) as tar:
        for path, data in long.items():
            (tmp_path / "file").write_bytes(data)
            tar.add(tmp_path / "file", path)
    layers = layers_of(oci_registry, ((tmp_path / "long.tar").read_bytes(), KITOPS_TAR, {}))
    assert files_at(oci_registry, put(oci_registry, layers), settings) == long
