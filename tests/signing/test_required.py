"""Policies with ``require_signature``: every way in which files and their signature may not belong together."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ObjectIdentifier
from cryptography.x509.oid import ExtendedKeyUsageOID
from model_signing import hashing, signing

from lora_cli.cli.main import main
from lora_cli.refs.snapshot import RemoteFile, Revision
from lora_cli.signing.verify import SignedFiles
from lora_cli.sources.local import LocalSource
from tests.hf_variables import set_variables
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base_config
from tests.signing import pki
from tests.signing.pki import authority, key_pair, signer
from tests.web_server import Site, WebServer

HEAD = "apiVersion: lora-cli/v1\nkind: Policy\n"
WEIGHTS, CONFIG, SIGNATURE = "adapter_model.safetensors", "adapter_config.json", "model.sig"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter in ``sql``, keys and certificates in ``pki``, and a policy for each kind of signer."""
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "sql", modules=llama_modules())
    (tmp_path / "sql" / "README.md").write_text("# SQL\n")
    write_base_config(tmp_path / "base")
    keys = tmp_path / "pki"
    keys.mkdir()
    pair, other = key_pair(keys, "acme"), key_pair(keys, "other")
    root = authority(keys, "root")
    signer(keys, "release", pair, root)
    signer(keys, "expired", pair, root, starts=-20, ends=-1)
    signer(keys, "stranger", other, authority(keys, "elsewhere"))
    Path("key.yaml").write_text(HEAD + "require_signature:\n  - keys: [pki/acme.pub]\n")
    Path("certificate.yaml").write_text(HEAD + "require_signature:\n  - certificates: [pki/root.pem]\n")


def sign(how: str, folder: str = "sql", key: str = "acme", certificate: str = "release") -> None:
    signed_by = None if how == "key" else Path("pki", f"{certificate}.pem")
    pki.sign(Path(folder), Path("pki", f"{key}.key"), certificate=signed_by)


def sign_another(how: str) -> None:
    write_adapter(Path("chat"), seed=1)
    sign(how, "chat")
    shutil.copy("chat/model.sig", "sql/model.sig")


def replace_by_link(how: str) -> None:
    Path("sql", WEIGHTS).rename("sql/elsewhere.safetensors")
    Path("sql", WEIGHTS).symlink_to("elsewhere.safetensors")


def link_to_others(how: str) -> None:
    write_adapter(Path("sql", "chat"), seed=1, modules=llama_modules())
    Path("sql", WEIGHTS).unlink()
    Path("sql", WEIGHTS).symlink_to("chat/adapter_model.safetensors")


def link_outside(how: str) -> None:
    Path("sql", WEIGHTS).rename("elsewhere.safetensors")
    Path("sql", WEIGHTS).symlink_to("../elsewhere.safetensors")


def change_a_byte(how: str) -> None:
    data = bytearray(Path("sql", WEIGHTS).read_bytes())
    data[-1] ^= 1
    Path("sql", WEIGHTS).write_bytes(data)


def cut(how: str) -> None:
    Path("sql", SIGNATURE).write_bytes(Path("sql", SIGNATURE).read_bytes()[:-20])


def nothing(how: str) -> None:
    """The adapter as it was signed."""


CASES: dict[str, tuple[Callable[[str], object], int, str]] = {
    "good": (nothing, 0, ""),
    "unsigned": (lambda how: Path("sql", SIGNATURE).unlink(), 1, "it has no model.sig"),
    "wrong key": (
        lambda how: sign(how, key="other", certificate="stranger"),
        1,
        "the key acme.pub did not make it | unable to get local issuer certificate",
    ),
    "changed byte": (change_a_byte, 1, f"changed since: {WEIGHTS}"),
    "added file": (lambda how: Path("sql", "tokenizer.json").write_text("{}"), 1, "not signed: tokenizer.json"),
    "removed file": (lambda how: Path("sql", "README.md").unlink(), 1, "signed, but missing: README.md"),
    "renamed file": (
        lambda how: Path("sql", "README.md").rename("sql/chat_template.jinja"),
        1,
        "signed, but missing: README.md; not signed: chat_template.jinja",
    ),
    "of another folder": (sign_another, 1, f"changed since: {CONFIG}, {WEIGHTS}"),
    "truncated signature": (cut, 1, "it is not a signature bundle, or is cut off"),
    "link to the signed bytes": (replace_by_link, 0, ""),
    "link to others": (link_to_others, 1, f"changed since: {WEIGHTS}"),
    "link out of the folder": (link_outside, 1, "outside its folder | signed, but missing"),
}


@pytest.mark.parametrize("how", ["key", "certificate"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "command", [["fetch", "./sql"], ["validate", "./sql", "--base", "none"]], ids=["fetch", "validate"]
)
def test_exactly_the_signed_files_by_the_right_signer(
    command: list[str], case: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, code, words = CASES[case]
    sign(how)
    change(how)
    capsys.readouterr()
    assert main([*command, "--policy", f"{how}.yaml"]) == code
    out, err = capsys.readouterr()
    shown = " ".join((out + err).split())
    assert not code or "policy require_signature:" in shown or case == "link out of the folder"
    assert any(part in shown for part in words.split(" | "))


@pytest.mark.parametrize(
    ("certificate", "parent", "words"),
    [
        ("expired", {}, "certificate has expired"),
        ("release", {"starts": -20, "ends": -1}, "certificate has expired"),
        ("release", {"starts": 1}, "not yet valid"),
    ],
)
def test_every_certificate_of_the_chain_must_be_valid_today(
    certificate: str, parent: dict[str, int], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if parent:
        root = authority(Path("pki"), "root", starts=parent["starts"], ends=parent.get("ends", 300))
        signer(Path("pki"), "release", key_pair(Path("pki"), "acme"), root, starts=min(-10, parent["starts"]))
    sign("certificate", certificate=certificate)
    capsys.readouterr()
    assert main(["fetch", "./sql", "--policy", "certificate.yaml"]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("usage", "code"),
    [
        (ExtendedKeyUsageOID.CODE_SIGNING, 0),
        (ExtendedKeyUsageOID.SERVER_AUTH, 1),
        (ExtendedKeyUsageOID.EMAIL_PROTECTION, 1),
    ],
)
def test_a_certificate_for_something_else_signs_nothing(
    usage: ObjectIdentifier, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    root = authority(Path("pki"), "root")
    signer(Path("pki"), "release", key_pair(Path("pki"), "acme"), root, usage=usage)
    sign("certificate")
    assert main(["fetch", "./sql", "--policy", "certificate.yaml"]) == code
    assert not code or "is not for signing code" in capsys.readouterr().err


def test_files_that_are_only_called_like_those_of_git_must_be_signed() -> None:
    sign("key")
    for name, code in ((".gitattributes", 0), (".gitignore-evil.py", 1)):
        Path("sql", name).write_text("x")
        assert main(["fetch", "./sql", "--policy", "key.yaml", "--include", "*"]) == code


@pytest.mark.slow
@pytest.mark.parametrize("what", ["tlogEntries", "unknown"])
def test_a_bundle_costs_no_more_than_its_signed_parts(what: str) -> None:
    sign("key")
    bundle = json.loads(Path("sql", SIGNATURE).read_text())
    bundle["verificationMaterial" if what == "tlogEntries" else what] = {
        **bundle["verificationMaterial"],
        what: [{}] * 300_000,
    }
    Path("sql", SIGNATURE).write_text(json.dumps(bundle))
    used = time.process_time()
    assert main(["fetch", "./sql", "--policy", "key.yaml"]) == 0
    assert time.process_time() - used < 2


def test_files_that_a_fetch_leaves_out_may_be_signed_too() -> None:
    Path("sql", "optimizer.pt").write_bytes(b"not needed")
    Path("sql", "checkpoint-1").mkdir()
    Path("sql", "checkpoint-1", "trainer_state.json").write_text("{}")
    sign("key")
    assert main(["fetch", "./sql", "--policy", "key.yaml"]) == 0
    Path("sql", "optimizer.pt").unlink()
    assert main(["fetch", "./sql", "--policy", "key.yaml"]) == 0


@pytest.mark.parametrize("exempt", ["tokenizer.json", "."])
def test_a_signature_cannot_exempt_files(exempt: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("sql", "tokenizer.json").write_text("{}")
    config = signing.Config().use_elliptic_key_signer(private_key="pki/acme.key")  # type: ignore[no-untyped-call]
    files = hashing.Config().set_ignored_paths(paths=[exempt])  # type: ignore[no-untyped-call]
    config.set_hashing_config(files).sign("sql", "sql/model.sig")
    assert main(["fetch", "./sql", "--policy", "key.yaml"]) == 1
    assert "not signed:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "how",
    [
        lambda config: config.use_file_serialization(hashing_algorithm="blake3"),
        lambda config: config.use_file_serialization(hashing_algorithm="blake2"),
        lambda config: config.use_shard_serialization(shard_size=1 << 20),
    ],
    ids=["blake3", "blake2", "shards"],
)
def test_other_hashes_than_sha256_are_checked_on_this_disk(
    how: Callable[[hashing.Config], hashing.Config], capsys: pytest.CaptureFixture[str]
) -> None:
    config = signing.Config().use_elliptic_key_signer(private_key="pki/acme.key")  # type: ignore[no-untyped-call]
    config.set_hashing_config(how(hashing.Config())).sign("sql", "sql/model.sig")  # type: ignore[no-untyped-call]
    assert main(["fetch", "./sql", "--policy", "key.yaml"]) == 0
    change_a_byte("key")
    assert main(["validate", "./sql", "--base", "none", "--policy", "key.yaml"]) == 1
    assert f"changed since: {WEIGHTS}" in " ".join(capsys.readouterr().out.split())


def test_shards_of_a_few_bytes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    config = signing.Config().use_elliptic_key_signer(private_key="pki/acme.key")  # type: ignore[no-untyped-call]
    files = hashing.Config().use_shard_serialization(shard_size=64)  # type: ignore[no-untyped-call]
    config.set_hashing_config(files).sign("sql", "sql/model.sig")
    assert main(["fetch", "./sql", "--policy", "key.yaml"]) == 1
    assert "shards of 64 bytes are too small" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ("  - {sources: ['hf://acme/*'], keys: [pki/acme.pub]}\n", 0),
        ("  - {sources: ['./sql'], keys: [pki/acme.pub]}\n", 1),
        ("  - {sources: ['./s*'], keys: [pki/acme.pub]}\n", 1),
        ("  - {sources: ['./linked/*'], keys: [pki/acme.pub]}\n", 1),
        ("  - {keys: [pki/other.pub, pki/acme.pub]}\n", 1),
    ],
)
def test_an_entry_is_for_the_sources_that_it_names(entries: str, code: int) -> None:
    Path("linked").symlink_to(".")
    Path("policy.yaml").write_text(HEAD + "require_signature:\n" + entries)
    assert main(["fetch", "./sql", "--policy", "policy.yaml"]) == code
    sign("key")
    assert main(["fetch", "./sql", "--policy", "policy.yaml"]) == 0


def test_all_entries_for_a_source_must_be_satisfied(capsys: pytest.CaptureFixture[str]) -> None:
    sign("key")
    Path("policy.yaml").write_text(
        HEAD + "require_signature:\n  - keys: [pki/acme.pub]\n  - {sources: ['./sql'], keys: [pki/other.pub]}\n"
    )
    assert main(["fetch", "./sql", "--policy", "policy.yaml"]) == 1
    assert "the key other.pub did not make it" in capsys.readouterr().err


def test_a_cached_adapter_is_checked_again_without_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sign("key")
    with Hub() as hub:
        set_variables(monkeypatch, HF_ENDPOINT=hub.endpoint)
        files = {path.name: path.read_bytes() for path in Path("sql").iterdir()}
        commit = hub.add("acme/sql", files)
        assert main(["fetch", f"acme/sql@{commit}", "--policy", "key.yaml"]) == 0
        asked = len(hub.requests)
        assert main(["fetch", f"acme/sql@{commit}", "--policy", "key.yaml"]) == 0
        assert main(["validate", f"acme/sql@{commit}", "--base", "none", "--policy", "key.yaml"]) == 0
        assert len(hub.requests) == asked
        Path("other.yaml").write_text(HEAD + "require_signature:\n  - keys: [pki/other.pub]\n")
        assert main(["fetch", f"acme/sql@{commit}", "--policy", "other.yaml"]) == 1
        assert main(["validate", f"acme/sql@{commit}", "--base", "none", "--policy", "other.yaml"]) == 1
        assert len(hub.requests) == asked


def test_a_signature_that_the_cache_lacks_is_fetched_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sign("key")
    with Hub() as hub:
        set_variables(monkeypatch, HF_ENDPOINT=hub.endpoint)
        commit = hub.add("acme/sql", {path.name: path.read_bytes() for path in Path("sql").iterdir()})
        # As a version that did not know signatures left it.
        with monkeypatch.context() as before:
            before.setattr("lora_cli.fetching.file_selection.SIGNATURE", "none")
            assert main(["fetch", f"acme/sql@{commit}"]) == 0
        assert not list(Path("cache/snapshots").glob(f"sha256/*/{SIGNATURE}"))
        assert main(["fetch", f"acme/sql@{commit}", "--policy", "key.yaml", "--offline"]) == 1
        asked = len(hub.requests)
        assert main(["fetch", f"acme/sql@{commit}", "--policy", "key.yaml"]) == 0
        fetched = {one.target.rpartition("/")[2] for one in hub.requests[asked:] if "/resolve/" in one.target}
        assert fetched == {SIGNATURE}
        asked = len(hub.requests)
        assert main(["fetch", f"acme/sql@{commit}", "--policy", "key.yaml"]) == 0
        assert len(hub.requests) == asked


def test_the_weights_of_a_cached_adapter_are_not_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sign("key")
    with Hub() as hub:
        set_variables(monkeypatch, HF_ENDPOINT=hub.endpoint)
        commit = hub.add("acme/sql", {path.name: path.read_bytes() for path in Path("sql").iterdir()})
        assert main(["fetch", f"acme/sql@{commit}", "--policy", "key.yaml"]) == 0
        asked: list[tuple[str, int, int | None]] = []
        read = LocalSource.read

        def counted(
            source: LocalSource, revision: Revision, file: RemoteFile, start: int, stop: int | None
        ) -> Iterator[bytes]:
            asked.append((file.path, start, stop))
            return read(source, revision, file, start, stop)

        monkeypatch.setattr(LocalSource, "read", counted)
        for command in (["validate", "--base", "none", "--no-values"], ["inspect"]):
            assert main([*command, f"acme/sql@{commit}", "--policy", "key.yaml"]) == 0
        assert all(stop is not None for path, _, stop in asked if path == WEIGHTS)
        assert any(path == SIGNATURE for path, _, _ in asked)


def snapshots() -> list[Path]:
    return list(Path("cache/snapshots/sha256").glob("*"))


def test_nothing_of_a_refused_adapter_is_published_and_its_weights_are_not_downloaded_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sign("key", key="other")
    with Hub() as hub:
        set_variables(monkeypatch, HF_ENDPOINT=hub.endpoint)
        files = {path.name: path.read_bytes() for path in Path("sql").iterdir()}
        refused = hub.add("acme/sql", files)
        assert main(["fetch", f"acme/sql@{refused}", "--policy", "key.yaml"]) == 1
        assert not snapshots()
        assert not list(Path("cache/tmp").glob("*"))
        capsys.readouterr()
        assert main(["cache", "ls", "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["snapshots"] == []
        assert main(["fetch", f"acme/sql@{refused}", "--offline"]) == 3
        sign("key")
        asked = len(hub.requests)
        commit = hub.add("acme/sql", {**files, SIGNATURE: Path("sql", SIGNATURE).read_bytes()})
        assert main(["fetch", f"acme/sql@{commit}", "--policy", "key.yaml"]) == 0
        assert len(snapshots()) == 1
        assert any(WEIGHTS in str(one) for one in hub.requests[:asked])
        assert not any(WEIGHTS in str(one) for one in hub.requests[asked:])


def test_a_manifest_names_a_signature_that_is_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Hub() as hub:
        set_variables(monkeypatch, HF_ENDPOINT=hub.endpoint)
        hub.add("other/sql", {path.name: path.read_bytes() for path in Path("sql").iterdir()})
        Path("sigs").mkdir()
        pki.sign(Path("sql"), Path("pki/acme.key"), Path("sigs/sql.sig"))
        head = "apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters:\n  - {name: sql, source: other/sql"
        Path("unsigned.yaml").write_text(f"{head}}}\n")
        Path("set.yaml").write_text(f"{head}, signature: sigs/sql.sig}}\n")
        fetch = ["fetch", "--policy", "key.yaml", "-f"]
        assert main([*fetch, "unsigned.yaml"]) == 1
        assert "it has no model.sig" in capsys.readouterr().err
        assert main([*fetch, "set.yaml"]) == 0
        assert main([*fetch, "set.yaml", "--locked"]) == 0
        assert main(["validate", "-f", "set.yaml", "--base", "none", "--policy", "key.yaml"]) == 0
        Path("other.yaml").write_text(HEAD + "require_signature:\n  - keys: [pki/other.pub]\n")
        capsys.readouterr()
        assert main(["fetch", "--policy", "other.yaml", "-f", "set.yaml"]) == 1
        assert "sql.sig: the key other.pub did not make it" in capsys.readouterr().err
        Path("sigs/sql.sig").unlink()
        assert main([*fetch, "set.yaml"]) == 2
        assert "sql.sig cannot be read" in capsys.readouterr().err


def test_what_a_server_lists_is_not_taken_for_what_it_sends(capsys: pytest.CaptureFixture[str]) -> None:
    sign("key")
    with WebServer(Site()) as web:
        web.site.files.update({f"sql/{path.name}": path.read_bytes() for path in Path("sql").iterdir()})
        assert main(["inspect", f"http://{web.place}/sql", "--policy", "key.yaml"]) == 1
        assert "fetch it first" in " ".join("".join(capsys.readouterr()).split())


def test_validate_verifies_the_signature_of_a_remote_adapter(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sign("key")
    files = {path.name: path.read_bytes() for path in Path("sql").iterdir()}
    with Hub() as hub:
        set_variables(monkeypatch, HF_ENDPOINT=hub.endpoint)
        hub.add("acme/sql", files)
        hub.add("acme/other", {**files, "adapter_config.json": files["adapter_config.json"] + b" "})
        validate = ["validate", "--base", "none", "--policy", "key.yaml"]
        assert main([*validate, "acme/sql"]) == 0
        assert main([*validate, "acme/other"]) == 1
        assert "signature" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("signers", "words"),
    [
        ("{keys: [pki/none.pub]}", "none.pub cannot be read: No such file or directory"),
        ("{keys: [pki/root.pem]}", "is not a public key in PEM"),
        ("{certificates: [pki/acme.pub]}", "has no certificate in PEM"),
        ("{sources: ['*']}", "there are no signers"),
    ],
)
def test_a_signer_that_cannot_be_used_is_a_mistake_in_the_policy(
    signers: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sign("key" if "keys" in signers else "certificate")
    Path("policy.yaml").write_text(f"{HEAD}require_signature:\n  - {signers}\n")
    assert main(["fetch", "./sql", "--policy", "policy.yaml"]) == 2
    assert words in capsys.readouterr().err


VALUES: tuple[object, ...] = (
    None,
    "x",
    [],
    {"hint": None},
    {"certificates": []},
    {"certificates": [{"rawBytes": "AAAA"}]},
)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"{" * 100_000,
        b'{"verificationMaterial": {}, "dsseEnvelope": {}}',
        b"\xff\xfe",
        b"1e999",
    ]
    + [
        json.dumps({"mediaType": kind, "verificationMaterial": {one: value}, "dsseEnvelope": envelope}).encode()
        for kind in ("application/vnd.dev.sigstore.bundle.v0.3+json", 7)
        for one in ("publicKey", "x509CertificateChain", "certificate")
        for value in VALUES
        for envelope in ("x", {"payload": "AAAA", "payloadType": "x", "signatures": [{"sig": "AAAA", "keyid": ""}]})
    ],
)
def test_any_other_file_is_no_signature(data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    Path("sql", SIGNATURE).write_bytes(data)
    for how in ("key", "certificate"):
        assert main(["fetch", "./sql", "--policy", f"{how}.yaml"]) == 1
        assert "policy require_signature: model.sig: " in capsys.readouterr().err


def test_the_resource_of_a_whole_file_is_its_name_and_of_a_shard_it_has_its_range() -> None:
    assert SignedFiles("", {"method": "files"}, {}).path_of("a:0:10") == "a:0:10"
    assert SignedFiles("", {"method": "shards"}, {}).path_of("a:0:10") == "a"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: str(curve.name))
def test_keys_of_all_curves_sign(curve: ec.EllipticCurve) -> None:
    key_pair(Path("pki"), "acme", curve)
    sign("key")
    assert main(["fetch", "./sql", "--policy", "key.yaml"]) == 0


def test_a_policy_names_keys_from_its_own_folder() -> None:
    sign("key")
    Path("rules").mkdir()
    Path("rules/key.yaml").write_text(HEAD + "require_signature:\n  - keys: [../pki/acme.pub]\n")
    assert main(["fetch", "./sql", "--policy", "rules/key.yaml"]) == 0


def test_a_published_copy_has_its_signature() -> None:
    sign("key")
    assert main(["fetch", "./sql", "--policy", "key.yaml", "--publish", "published"]) == 0
    assert Path("published/sql/model.sig").read_bytes() == Path("sql/model.sig").read_bytes()


LOADED = """
code = main(sys.argv[1:])
print([name for name in ("model_signing", "OpenSSL", "cryptography", "sigstore") if name in sys.modules], code)
"""
OPENED = """
seen = []
sys.addaudithook(lambda event, given: seen.append(str(given[0])) if event == "open" else None)
code = main(sys.argv[1:])
files = [name.rpartition("/")[2] for name in seen if "/snapshots/" in name or "/blobs/" in name]
print(files, code)
"""


def run(code: str, *argv: str) -> str:
    """The last line that a program prints which runs a command line in its process."""
    program = f"import sys\nfrom lora_cli.cli.main import main\n{code}"
    done = subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_without_a_required_signature_nothing_of_it_is_imported() -> None:
    Path("policy.yaml").write_text("apiVersion: lora-cli/v1\nkind: Policy\nallow_formats: [safetensors]\n")
    for command in (["fetch", "./sql"], ["validate", "./sql", "--base", "none"]):
        assert run(LOADED, *command, "--policy", "policy.yaml") == "[] 0"


@pytest.mark.slow
def test_a_cached_adapter_is_verified_without_reading_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    sign("key")
    with Hub() as hub:
        set_variables(monkeypatch, HF_ENDPOINT=hub.endpoint)
        commit = hub.add("acme/sql", {path.name: path.read_bytes() for path in Path("sql").iterdir()})
        argv = ["fetch", f"acme/sql@{commit}", "--policy", "key.yaml"]
        assert main(argv) == 0
        assert run(OPENED, *argv) == "['model.sig'] 0"
