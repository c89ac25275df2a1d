"""Policies with ``require_signature``: every way in which files and their signature may not belong together."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import ObjectIdentifier
from cryptography.x509.oid import ExtendedKeyUsageOID
from model_signing import hashing, signing

from lora_cli.cli.main import main
from tests.hf_variables import set_variables
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter
from tests.signing import pki
from tests.signing.pki import certificate, key_pair
from tests.web_server import Site, WebServer

Capture = pytest.CaptureFixture[str]
Change = Callable[[str], object]
"""What happens to an adapter that was signed by a ``key`` or a ``certificate``."""
HEAD = "apiVersion: lora-cli/v1\nkind: Policy\n"
WEIGHTS, CONFIG, SIGNATURE = "adapter_model.safetensors", "adapter_config.json", "model.sig"
VALIDATE = ["validate", "--base", "none"]
OTHERS = {
    "README.md": b"# SQL\n",
    "training_args.bin": b"a pickle",
    "checkpoint-1/trainer_state.json": b"{}",
    ".gitattributes": b"*.safetensors filter=lfs\n",
}
"""What a training run leaves beside an adapter."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter in ``sql``, keys and certificates in ``pki``, and a policy for each kind of signer."""
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_adapter(Path("sql"), modules=llama_modules())
    for path, data in OTHERS.items():
        Path("sql", path).parent.mkdir(exist_ok=True)
        Path("sql", path).write_bytes(data)
    keys = tmp_path / "pki"
    keys.mkdir()
    certificate(keys, "release", certificate(keys, "root", days=(-30, 300)), of=key_pair(keys, "acme"))
    certificate(keys, "stranger", certificate(keys, "elsewhere"), of=key_pair(keys, "other"))
    policy("key.yaml", "{keys: [pki/acme.pub]}")
    policy("certificate.yaml", "{certificates: [pki/root.pem]}")


def policy(file: str, *entries: str) -> None:
    Path(file).write_text(HEAD + "require_signature:\n" + "".join(f"  - {entry}\n" for entry in entries))


def sign(how: str = "key", folder: str = "sql", key: str = "acme", by: str = "release", **more: Any) -> None:
    chain = () if how == "key" else (Path("pki", f"{by}.pem"),)
    pki.sign(Path(folder), Path("pki", f"{key}.key"), chain=chain, **more)


def files_of(folder: str) -> dict[str, bytes]:
    found = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def said(capsys: Capture) -> str:
    return " ".join("".join(capsys.readouterr()).split())


def write(path: str, data: str = "{}") -> Change:
    return lambda how: Path("sql", path).write_text(data)


def remove(path: str) -> Change:
    return lambda how: Path("sql", path).unlink()


def sign_another(how: str) -> None:
    shutil.copytree("sql", "chat")
    write_adapter(Path("chat"), seed=1)
    sign(how, "chat")
    shutil.copy("chat/model.sig", "sql/model.sig")


def exempt(how: str) -> None:
    Path("sql/tokenizer.json").write_text("{}")
    sign(how, ignored=("tokenizer.json",))


CASES: dict[str, tuple[Change, tuple[int, int], str]] = {
    "good": (lambda how: None, (0, 0), ""),
    "unsigned": (remove(SIGNATURE), (1, 1), "it has no model.sig"),
    "wrong key": (lambda how: sign(how, key="other", by="stranger"), (1, 1), "acme.pub did not make it | local issuer"),
    "changed weights": (lambda how: write_adapter(Path("sql"), seed=2), (1, 1), WEIGHTS),
    "changed training file": (write("training_args.bin"), (1, 0), "changed since: training_args.bin"),
    "added file": (write("tokenizer.json"), (1, 1), "not signed: tokenizer.json"),
    "called like git's": (write(".gitignore-evil.py"), (1, 0), "not signed: .gitignore-evil.py"),
    "git's own": (write(".gitignore"), (0, 0), ""),
    "removed file": (remove("README.md"), (1, 1), "signed, but missing: README.md"),
    "of another folder": (sign_another, (1, 1), f"changed since: {CONFIG}, {WEIGHTS}"),
    "truncated signature": (write(SIGNATURE, '{"mediaType'), (1, 1), "it is not a signature bundle, or is cut off"),
    "exempts a file": (exempt, (1, 1), "not signed: tokenizer.json"),
}
"""What happens, what ``fetch`` and ``validate`` exit with, and what they say; validate reads what it judges."""


@pytest.mark.parametrize("how", ["key", "certificate"])
@pytest.mark.parametrize("case", CASES)
def test_exactly_the_signed_files_by_the_right_signer(case: str, how: str, capsys: Capture) -> None:
    change, codes, words = CASES[case]
    sign(how)
    change(how)
    for command, code in zip((["fetch"], VALIDATE), codes, strict=True):
        capsys.readouterr()
        assert main([*command, "./sql", "--policy", f"{how}.yaml"]) == code
        shown = said(capsys)
        assert not code or ("policy require_signature:" in shown and any(part in shown for part in words.split(" | ")))


def test_a_repository_that_the_official_tool_signed(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Its other files are fetched and compared, and not published; pickles are no harm."""
    tool = [sys.executable, "-m", "model_signing", "sign", "key", "sql", "--signature", "sql/model.sig"]
    subprocess.run([*tool, "--private_key", "pki/acme.key"], check=True, capture_output=True)
    with Path("key.yaml").open("a") as file:
        file.write("allow_formats: [safetensors]\n")
    files, fetch = files_of("sql"), ["fetch", "--policy", "key.yaml"]
    with Hub() as hub:
        set_variables(monkeypatch, HF_ENDPOINT=hub.endpoint)
        commit = hub.add("acme/sql", files)
        assert main([*fetch, f"acme/sql@{commit}", "--publish", "out"]) == 0
        published = {WEIGHTS, CONFIG, "README.md", SIGNATURE, ".lora-cli.json"}
        assert {path.name for path in Path("out/sql").iterdir()} == published
        assert any("training_args.bin" in one.target for one in hub.requests)
        asked = len(hub.requests)  # what is cached is checked again without a request
        assert main([*fetch, f"acme/sql@{commit}"]) == 0
        assert main([*VALIDATE, f"acme/sql@{commit}", "--policy", "key.yaml"]) == 0
        policy("other.yaml", "{keys: [pki/other.pub]}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LORA_CLI_POLICY", "other.yaml")
            for command in (["fetch"], VALIDATE, ["inspect"]):
                assert main([*command, f"acme/sql@{commit}"]) == 1
        assert len(hub.requests) == asked
        for path, data in {"training_args.bin": b"other", "evil.py": b"", CONFIG: b"{}"}.items():
            assert main([*fetch, f"acme/sql@{hub.add('acme/sql', {**files, path: data})}"]) == 1
            assert path in said(capsys)
        del files["training_args.bin"]
        assert main([*fetch, f"acme/less@{hub.add('acme/less', files)}"]) == 1
        assert "signed, but missing: training_args.bin" in said(capsys)
        assert len(list(Path("cache/snapshots/sha256").iterdir())) == 1


def test_nothing_is_downloaded_of_what_a_stranger_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    sign(key="other")
    with Hub() as hub:
        set_variables(monkeypatch, HF_ENDPOINT=hub.endpoint)
        commit = hub.add("acme/sql", files_of("sql"))
        assert main(["fetch", f"acme/sql@{commit}", "--policy", "key.yaml"]) == 1
        assert {one.target.rpartition("/")[2] for one in hub.requests if "/resolve/" in one.target} == {SIGNATURE}
        assert main([*VALIDATE, f"acme/sql@{commit}", "--policy", "key.yaml"]) == 1
        assert main(["fetch", f"acme/sql@{commit}"]) == 0
        sign()  # a signature that the cache lacks is fetched, and no weights
        hub.add("acme/sql", files_of("sql"))
        assert main(["fetch", "acme/sql", "--policy", "key.yaml"]) == 0
        assert sum(WEIGHTS in one.target for one in hub.requests if "/resolve/" in one.target) == 1


def test_a_web_server_lists_nothing_and_is_asked_for_the_signed_files(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_CLI_POLICY", "key.yaml")
    shutil.rmtree("sql/checkpoint-1")
    sign()
    with WebServer(Site()) as web:
        web.site.files.update({f"sql/{path}": data for path, data in files_of("sql").items()})
        address = f"http://{web.place}/sql"
        assert main(["inspect", address]) == 1
        assert "fetch it first" in said(capsys)
        assert main(["fetch", address]) == 0
        web.site.files["sql/training_args.bin"] = b"changed"
        Path("cache").rename("before")
        assert main(["fetch", address]) == 1
        assert "changed since: training_args.bin" in said(capsys)


@pytest.mark.parametrize(
    ("own", "root", "usage", "words"),
    [
        ((-10, 100), (-30, 300), ExtendedKeyUsageOID.CODE_SIGNING, ""),
        ((-20, -1), (-30, 300), None, "certificate has expired"),
        ((1, 100), (1, 100), None, "not yet valid"),
        ((-10, 100), (-30, 300), ExtendedKeyUsageOID.SERVER_AUTH, "is not for signing code"),
    ],
)
def test_the_certificates_must_be_valid_today_and_for_signing(
    own: tuple[int, int], root: tuple[int, int], usage: ObjectIdentifier | None, words: str, capsys: Capture
) -> None:
    """Also those between the signer's and the root's, which come with the signature."""
    keys = Path("pki")
    between = certificate(keys, "between", certificate(keys, "root", days=root), days=root)
    release = certificate(keys, "release", between, of=key_pair(keys, "acme"), days=own, usage=usage)
    pki.sign(Path("sql"), keys / "acme.key", chain=(release.public, between.public))
    assert main(["fetch", "./sql", "--policy", "certificate.yaml"]) == bool(words)
    assert words in said(capsys)


def test_only_sha256_counts() -> None:
    files = hashing.Config().use_file_serialization(hashing_algorithm="blake3")  # type: ignore[no-untyped-call]
    config = signing.Config().use_elliptic_key_signer(private_key="pki/acme.key")  # type: ignore[no-untyped-call]
    config.set_hashing_config(files).sign("sql", "sql/model.sig")
    assert main(["fetch", "./sql", "--policy", "key.yaml"]) == 1


@pytest.mark.parametrize(
    ("entries", "unsigned", "signed"),
    [
        (["{sources: ['hf://acme/*'], keys: [pki/acme.pub]}"], 0, 0),
        (["{sources: ['./linked/*'], keys: [pki/acme.pub]}"], 1, 0),
        (["{keys: [pki/other.pub, pki/acme.pub]}"], 1, 0),
        (["{keys: [pki/acme.pub]}", "{sources: ['./sql'], keys: [pki/other.pub]}"], 1, 1),
        (["{sources: ['*']}"], 2, 2),
    ],
)
def test_all_entries_for_a_source_must_be_satisfied(entries: list[str], unsigned: int, signed: int) -> None:
    Path("linked").symlink_to(".")
    policy("policy.yaml", *entries)
    assert main(["fetch", "./sql", "--policy", "policy.yaml"]) == unsigned
    sign()
    assert main(["fetch", "./sql", "--policy", "policy.yaml"]) == signed


def test_a_manifest_names_a_signature_that_is_elsewhere(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """And who made it is told."""
    monkeypatch.setenv("LORA_CLI_POLICY", "key.yaml")
    pki.sign(Path("sql"), Path("pki/acme.key"), Path("sql.sig"))
    head = "apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters:\n  - {name: sql, source: ./sql"
    Path("set.yaml").write_text(f"{head}, signature: sql.sig}}\n")
    for command in (["fetch"], ["fetch", "--locked"], VALIDATE, ["inspect", "--format", "json"]):
        capsys.readouterr()
        assert main([*command, "-f", "set.yaml"]) == 0
    assert json.loads(capsys.readouterr().out)["adapters"][0]["signers"] == ["the key acme.pub"]
    Path("sql.sig").unlink()
    assert main(["fetch", "-f", "set.yaml"]) == 2
    assert "sql.sig cannot be read" in said(capsys)
