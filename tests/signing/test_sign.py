"""``lora-cli sign``: what it writes, where, and with which keys; and what signatures cost."""

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from lora_cli.cli.main import main
from lora_cli.documents.policy import RequiredSignature
from lora_cli.signing.verify import verify
from tests.hf_variables import set_variables
from tests.hub_server import Hub
from tests.making import write_adapter
from tests.signing.pki import authority, key_pair, signer

POLICY = "apiVersion: lora-cli/v1\nkind: Policy\nrequire_signature:\n  - keys: [acme.pub]\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "sql")
    key_pair(tmp_path, "acme")


def signed_by(public: str, signature: str) -> set[str]:
    required = RequiredSignature(keys=(str(Path(public).absolute()),))
    return set(verify(Path(signature).read_bytes(), required, offline=True).hashes)


FILES = {"adapter_config.json", "adapter_model.safetensors"}


def test_the_signature_is_in_the_folder_and_can_be_written_again(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["sign", "sql", "--key", "acme.key"]) == 0
        out, err = capsys.readouterr()
        assert Path(out.strip()) == Path("sql/model.sig").absolute()
        assert "signed" in err
        assert signed_by("acme.pub", "sql/model.sig") == FILES


def test_another_output_in_the_folder_is_not_signed_either(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    for _ in range(2):
        assert main(["sign", "sql", "--key", "acme.key", "--output", "sql/mine.sig"]) == 0
        assert signed_by("acme.pub", "sql/mine.sig") == FILES
    Path("sql/mine.sig").unlink()
    capsysbinary.readouterr()
    assert main(["sign", "sql", "--key", "acme.key", "--output", "-"]) == 0
    Path("stdout.sig").write_bytes(capsysbinary.readouterr().out)
    assert signed_by("acme.pub", "stdout.sig") == FILES


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: str(curve.name))
def test_keys_of_all_curves_and_encrypted_ones_sign(
    curve: ec.EllipticCurve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key_pair(tmp_path, "locked", curve, password="open sesame")
    monkeypatch.setenv("LORA_CLI_KEY_PASSWORD", "open sesame")
    assert main(["sign", "sql", "--key", "locked.key"]) == 0
    assert signed_by("locked.pub", "sql/model.sig") == FILES


def test_an_adapter_elsewhere_is_fetched_and_its_files_are_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub() as hub:
        set_variables(monkeypatch, HF_ENDPOINT=hub.endpoint)
        files = {path.name: path.read_bytes() for path in Path("sql").iterdir()}
        hub.add("acme/sql", {**files, "optimizer.pt": b"x"})
        assert main(["sign", "acme/sql", "--key", "acme.key"]) == 2
        assert main(["sign", "acme/sql", "--key", "acme.key", "--output", "sql.sig"]) == 0
        assert signed_by("acme.pub", "sql.sig") == FILES


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "sign needs --key, or --identity"),
        (["--key", "acme.key", "--identity"], "cannot be used together"),
        (["--key", "acme.key", "--trust-config", "x.json"], "--trust-config belongs to --identity"),
        (["--identity", "--certificate", "acme.pem"], "belong to --key"),
        (["--key", "acme.key", "--chain", "root.pem"], "--chain needs --certificate"),
        (["--key", "none.key"], "none.key cannot be read"),
        (["--key", "acme.pub"], "is not a private key in PEM"),
        (["--key", "locked.key"], "is encrypted"),
        (["--key", "locked.key", "--key-password", "wrong one"], "its password is wrong"),
        (["--key", "acme.key", "--key-password", "needless"], "is not encrypted"),
        (["--key", "bitcoin.key"], "must be an ECDSA key on P-256"),
        (["--key", "acme.key", "--certificate", "root.pem"], "is not the certificate of acme.key"),
        (["--key", "acme.key", "--certificate", "acme.key"], "has no certificate in PEM"),
    ],
)
def test_a_signer_that_cannot_be_used_is_explained(
    argv: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key_pair(tmp_path, "locked", password="open sesame")
    key_pair(tmp_path, "bitcoin", ec.SECP256K1())
    authority(tmp_path, "root")
    assert main(["sign", "sql", *argv]) == 2
    assert words in capsys.readouterr().err
    assert not Path("sql/model.sig").exists()


def test_an_option_wins_over_the_variables_of_the_other_kind_of_signer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"KEY": "acme.key", "KEY_PASSWORD": "x", "CERTIFICATE": "acme.pem"}.items():
        monkeypatch.setenv(f"LORA_CLI_{name}", value)
    assert main(["sign", "sql", "--identity", "--trust-config", "none.json"]) == 2
    assert "none.json cannot be read" in capsys.readouterr().err
    assert main(["sign", "sql", "--identity", "--certificate", "acme.pem"]) == 2
    assert "belong to --key" in capsys.readouterr().err
    monkeypatch.setenv("LORA_CLI_IDENTITY", "true")
    assert main(["sign", "sql"]) == 2
    assert "cannot be used together" in capsys.readouterr().err
    for name in ("LORA_CLI_KEY_PASSWORD", "LORA_CLI_CERTIFICATE"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("LORA_CLI_TRUST_CONFIG", "none.json")
    assert main(["sign", "sql", "--key", "acme.key"]) == 0


@pytest.mark.parametrize("missing", ["none", "sql/adapter_config.json"])
def test_there_must_be_a_folder(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sign", f"./{missing}", "--key", "acme.key"]) == 3
    assert "is not a folder" in capsys.readouterr().err


def test_a_folder_with_links_is_not_signed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("sql/README.md").symlink_to("adapter_config.json")
    assert main(["sign", "sql", "--key", "acme.key"]) == 1
    assert "cannot be signed" in capsys.readouterr().err


def test_a_certificate_without_a_chain_is_of_the_root_itself(tmp_path: Path) -> None:
    pair = key_pair(tmp_path, "release")
    root = authority(tmp_path, "root")
    certificate = signer(tmp_path, "certificate", pair, root)
    assert main(["sign", "sql", "--key", "release.key", "--certificate", certificate.name]) == 0
    required = RequiredSignature(certificates=(str(root.file),))
    assert set(verify(Path("sql/model.sig").read_bytes(), required, offline=True).hashes) == FILES


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
    for command in (["fetch", "./sql"], ["validate", "./sql", "--no-base"]):
        assert run(LOADED, *command, "--policy", "policy.yaml") == "[] 0"


@pytest.mark.slow
def test_a_cached_adapter_is_verified_without_reading_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("policy.yaml").write_text(POLICY)
    assert main(["sign", "sql", "--key", "acme.key"]) == 0
    with Hub() as hub:
        set_variables(monkeypatch, HF_ENDPOINT=hub.endpoint)
        commit = hub.add("acme/sql", {path.name: path.read_bytes() for path in Path("sql").iterdir()})
        argv = ["fetch", f"acme/sql@{commit}", "--policy", "policy.yaml"]
        assert main(argv) == 0
        assert run(OPENED, *argv) == "['model.sig'] 0"
