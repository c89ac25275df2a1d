"""``lora-cli push`` to real registries."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from lora_cli.core.reference import AdapterRef
from lora_cli.pushing.artifact import Part, referrer
from lora_cli.pushing.upload import registry_client, upload
from lora_cli.settings import Settings
from tests import forked
from tests.answering import Asked, Reply, answering
from tests.making import write_adapter
from tests.oci_server import OCI_INDEX, OCI_MANIFEST, USER, Registry, htpasswd, log_in, registry, token_server
from tests.signing.pki import key_pair
from tests.sources.raw_servers import forget_environment

pytestmark = pytest.mark.slow

CERTIFICATE = Path(__file__).parents[1] / "sources/tls/localhost.pem"


def push(*arguments: object, **environment: object) -> forked.Forked:
    environ = {**os.environ, "NO_COLOR": "1", **{name: str(value) for name, value in environment.items()}}
    return forked.run(["push", *map(str, arguments)], environ)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "sql")


@pytest.fixture
def server(oci_registry: Registry) -> Registry:
    return oci_registry


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetched(ref: str, folder: Path) -> dict[str, bytes]:
    """The files of ``ref``, through a cache of its own."""
    done = forked.run(
        ["fetch", ref, "--to", str(folder)], {**os.environ, "LORA_CLI_CACHE_DIR": str(folder.with_suffix(".cache"))}
    )
    assert done.code == 0, done.err
    return {path: data for path, data in files_in(folder).items() if not path.startswith(".")}


def attested(adapter: Path, folder: Path) -> Path:
    """The verdict of ``validate`` on an adapter, signed."""
    file = folder / f"{adapter.name}.intoto.jsonl"
    key = str(key_pair(folder, "ci").private)
    done = forked.run(["validate", str(adapter), "--no-base", "--attest", str(file), "--key", key], os.environ)
    assert done.code == 0, done.err
    return file


def get(server: Registry, path: str) -> Any:
    return json.loads(server.ask(path, headers={"Accept": f"{OCI_MANIFEST}, {OCI_INDEX}"})[1])


@pytest.mark.parametrize("layout", ["modelpack", "image"])
def test_what_was_pushed_is_fetched_by_the_digest_that_is_printed(
    server: Registry, adapter: Path, tmp_path: Path, layout: str
) -> None:
    name = server.name()
    done = push(adapter, f"oci://{server.place}/{name}:v1", "--as", layout)
    assert done.code == 0, done.err
    ref = done.out.strip()
    assert ref.startswith(f"oci://{server.place}/{name}@sha256:")
    assert fetched(ref, tmp_path / "by-digest") == files_in(adapter)
    assert fetched(f"oci://{server.place}/{name}:v1", tmp_path / "by-tag") == files_in(adapter)


def test_twice_uploads_nothing_and_prints_the_same(server: Registry, adapter: Path) -> None:
    target = f"oci://{server.place}/{server.name()}:v1"
    first, second = push(adapter, target), push(adapter, target)
    assert (first.code, second.code) == (0, 0)
    assert first.out == second.out
    assert "3 blobs uploaded" in first.err
    assert "0 blobs uploaded" in second.err.replace("no blobs", "0 blobs")
    assert "3 already there" in second.err


def test_without_a_tag_it_is_latest(server: Registry, adapter: Path) -> None:
    name = server.name()
    assert push(adapter, f"oci://{server.place}/{name}").code == 0
    assert get(server, f"{name}/manifests/latest")["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"


def test_blobs_of_another_repository_are_mounted(server: Registry, adapter: Path) -> None:
    first = push(adapter, f"oci://{server.place}/{server.name()}:v1")
    again = push(first.out.strip(), f"oci://{server.place}/{server.name()}:v1")
    assert again.code == 0, again.err
    assert "from another repository" in again.err
    assert "no blobs uploaded" in again.err or "1 blob uploaded" in again.err  # the config has the repository's name


@pytest.mark.parametrize("status", [401, 403, 404])
def test_where_a_mount_is_refused_the_bytes_are_sent(tmp_path: Path, status: int) -> None:
    puts: list[bytes] = []

    def reply(asked: Asked) -> Reply:
        if "mount=" in asked.path:
            return status, b"", {"WWW-Authenticate": f'Bearer realm="http://{asked.headers["Host"]}/token"'}
        puts.extend([asked.body] if asked.command == "PUT" else [])
        answers = {"GET": (200, b'{"token": "good"}'), "HEAD": (404, b""), "POST": (202, b""), "PUT": (201, b"")}
        return *answers[asked.command], {"Location": "/v2/upload"}

    with answering(reply) as url:
        client = registry_client(AdapterRef("oci", f"{url.removeprefix('http://')}/acme/sql:v1"), Settings(tmp_path))
        made = referrer(Part(OCI_MANIFEST, f"sha256:{'0' * 64}", 1, lambda: iter(())), "text/plain", b"a signature")
        count = upload(client, made, "v1", "it", mount_from="acme/other")
    assert (count.sent, count.mounted) == (2, 0)
    assert puts == [b"{}", b"a signature", b"".join(made.top.content())]


def test_oras_pulls_it(server: Registry, adapter: Path, tmp_path: Path) -> None:
    name = server.name()
    assert push(adapter, f"oci://{server.place}/{name}:v1").code == 0
    command = ["oras", "pull", "--plain-http", f"{server.place}/{name}:v1", "--output", str(tmp_path / "pulled")]
    subprocess.run(command, check=True, capture_output=True)
    assert files_in(tmp_path / "pulled") == files_in(adapter)


def test_signature_and_verdicts_refer_to_it(server: Registry, adapter: Path, tmp_path: Path) -> None:
    name = server.name()
    (adapter / "model.sig").write_text('{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}')
    verdict = attested(adapter, tmp_path)
    told = verdict.read_bytes()
    verdict.write_bytes(attested(write_adapter(tmp_path / "other", seed=1), tmp_path).read_bytes() + told)
    done = push(adapter, f"oci://{server.place}/{name}:v1", "--verdict", verdict)
    assert done.code == 0, done.err
    digest = done.out.strip().partition("@")[2]
    listed = get(server, f"{name}/manifests/{digest.replace(':', '-')}")["manifests"]
    held = {}
    for one in listed:
        manifest = get(server, f"{name}/manifests/{one['digest']}")
        assert manifest["subject"]["digest"] == digest
        held[one["artifactType"]] = server.ask(f"{name}/blobs/{manifest['layers'][0]['digest']}")[1]
    assert held == {
        "application/vnd.dev.sigstore.bundle.v0.3+json": (adapter / "model.sig").read_bytes(),
        "application/vnd.in-toto.bundle": told,
    }
    again = push(adapter, f"oci://{server.place}/{name}:v1", "--verdict", verdict)
    assert again.code == 0
    assert get(server, f"{name}/manifests/{digest.replace(':', '-')}")["manifests"] == listed


def test_credentials_of_docker_are_used(adapter: Path, tmp_path: Path) -> None:
    with registry(tmp_path, htpasswd(tmp_path)) as private:
        target = f"oci://{private.place}/acme/sql:v1"
        refused = push(adapter, target)
        assert refused.code == 3
        assert "docker login" in refused.err
        log_in(Path(os.environ["DOCKER_CONFIG"]), private.place)
        done = push(adapter, target)
        assert done.code == 0, done.err
        assert USER[1] not in done.err


@pytest.fixture
def over_tls(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A registry of this machine is asked over TLS, as one of any other."""
    for module in ("lora_cli.pushing.upload", "lora_cli.sources.oci"):
        monkeypatch.setattr(f"{module}.registry_endpoint", lambda location: f"https://{location.partition('/')[0]}")
    forget_environment()
    yield
    forget_environment()


@pytest.mark.usefixtures("over_tls")
@pytest.mark.parametrize("entry", [{}, {"identitytoken": "an-identity-token-of-alice"}])
def test_a_registry_with_tokens_and_a_certificate_of_its_own_is_pushed_to_and_read_from(
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    entry: dict[str, str],
) -> None:
    def told(*words: object) -> tuple[int, str]:
        code = main([str(word) for word in words])
        return code, capsys.readouterr().err

    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    verdict = attested(adapter, tmp_path)
    with token_server(CERTIFICATE, tls=True) as tokens, registry(tmp_path, tokens.auth(), CERTIFICATE) as private:
        ref = f"oci://{private.place}/acme/sql:v1"
        code, err = told("push", adapter, ref)
        assert (code, "SSL_CERT_FILE" in err) == (4, True), err
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        forget_environment()
        code, err = told("push", adapter, ref)
        assert (code, "docker login" in err) == (3, True), err
        log_in(Path(os.environ["DOCKER_CONFIG"]), private.place, **entry)
        code, err = told("push", adapter, ref, "--verdict", verdict)
        assert (code, USER[1] in err) == (0, False), err
        # The registry names the actions in any order.
        asked = {fields["scope"] for _, _, fields in tokens.asked}
        assert asked & {"repository:acme/sql:pull,push", "repository:acme/sql:push,pull"}
        assert {method for method, _, _ in tokens.asked} == {"GET", *(["POST"] if entry else [])}
        assert told("fetch", ref, "--to", tmp_path / "there")[0] == 0
        assert files_in(tmp_path / "there") == files_in(adapter)
        tokens.lifetime_s = -120
        assert told("push", adapter, ref)[0] == 3


def hostile(**answers: Reply) -> Any:
    """A registry that answers each method so."""

    def reply(asked: Asked) -> Reply:
        return answers.get(asked.command, (404, b"", {}))

    return answering(reply)


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ({"POST": (202, b"", {"Location": "http://169.254.169.254/latest"})}, 1),
        ({"POST": (202, b"", {"Location": "/v2/upload"}), "PUT": (201, b"", {"Docker-Content-Digest": "sha256:0"})}, 5),
        ({"POST": (202, b"", {})}, 4),
        ({"POST": (403, b"", {})}, 3),
        ({"HEAD": (200, b"", {}), "PUT": (405, b"", {})}, 4),
        ({"POST": (201, b"", {}), "PUT": (500, b"", {})}, 4),
    ],
)
def test_a_registry_that_misbehaves_ends_in_an_exit_code(adapter: Path, answers: Mapping[str, Any], code: int) -> None:
    with hostile(**answers) as url:
        done = push(adapter, f"oci://{url.removeprefix('http://')}/acme/sql:v1", LORA_CLI_RETRIES="0")
    assert done.code == code, done.err
    assert not done.out
    assert done.err.count("error:") == 1


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("acme/sql", "OCI"),
        ("oci://registry.example/acme/sql@sha256:" + "0" * 64, "digest"),
        ("oci://registry.example", "OCI reference"),
    ],
)
def test_a_target_that_is_none_is_a_usage_error(adapter: Path, target: str, words: str) -> None:
    done = push(adapter, target)
    assert done.code == 2
    assert words in done.err


def test_what_is_no_adapter_is_not_pushed(server: Registry, tmp_path: Path) -> None:
    broken = write_adapter(tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    done = push(broken, f"oci://{server.place}/{server.name()}:v1")
    assert done.code == 1
    assert "not pushed" in done.err


def test_a_policy_says_what_may_be_pushed(server: Registry, adapter: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("apiVersion: lora-cli/v1\nkind: Policy\nallow_sources: [hf://acme/**]\n")
    done = push(adapter, f"oci://{server.place}/{server.name()}:v1", "--policy", policy)
    assert done.code == 1


def test_nothing_is_pushed_offline_or_to_a_host_that_a_policy_denies(adapter: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def reply(request: Asked) -> Reply:
        asked.append(request.path)
        return 200, b"", {}

    policy = tmp_path / "policy.yaml"
    with answering(reply) as url:
        target = f"oci://{url.removeprefix('http://')}/acme/sql:v1"
        offline = push(adapter, target, LORA_CLI_OFFLINE="1")
        assert (offline.code, "offline mode" in offline.err) == (3, True)
        for rule in ("deny_hosts: [localhost]", "allow_hosts: [registry.example]"):
            policy.write_text(f"apiVersion: lora-cli/v1\nkind: Policy\n{rule}\n")
            denied = push(adapter, target, "--policy", policy)
            assert (denied.code, rule.partition(":")[0] in denied.err) == (1, True)
    assert not asked


def test_verdicts_on_other_files_are_not_attached(server: Registry, adapter: Path, tmp_path: Path) -> None:
    target = f"oci://{server.place}/{server.name()}:v1"
    others = attested(write_adapter(tmp_path / "other", seed=1), tmp_path)
    done = push(adapter, target, "--verdict", others)
    assert (done.code, "has no verdict on the snapshot" in done.err, done.out) == (2, True, "")
    spaced = others.rename(tmp_path / "of others.jsonl")
    assert f" --attest '{spaced}' --key " in push(adapter, target, "--verdict", spaced).err
    missing = push(adapter, target, "--verdict", tmp_path / "none.jsonl")
    assert (missing.code, "none.jsonl cannot be read: No such file" in missing.err) == (2, True)


def test_a_list_of_referrers_that_is_none_is_refused(adapter: Path, tmp_path: Path) -> None:
    manifest = {"mediaType": OCI_MANIFEST, "config": {"digest": "sha256:" + "0" * 64, "size": 2}, "layers": []}
    listed = (200, json.dumps(manifest).encode(), {"Content-Type": OCI_MANIFEST})
    verdict = attested(adapter, tmp_path)
    with hostile(HEAD=(200, b"", {}), PUT=(201, b"", {}), GET=listed) as url:
        done = push(adapter, f"oci://{url.removeprefix('http://')}/acme/sql:v1", "--verdict", verdict)
    assert (done.code, "is no list of referrers" in done.err) == (1, True)
