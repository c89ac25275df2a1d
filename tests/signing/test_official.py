"""Signatures that each version of model-signing made, and those of its command line of today."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from lora_cli.documents.policy import RequiredSignature, SigstoreIdentity
from lora_cli.errors import Offline, Refused
from lora_cli.signing.verify import verify
from tests.making import write_adapter
from tests.signing.pki import authority, key_pair, signer

OFFICIAL = Path(__file__).parent / "official"
FOLDERS = sorted(path.name for path in OFFICIAL.iterdir() if path.is_dir())
IBM = SigstoreIdentity(identity="stefanb@us.ibm.com", issuer="https://sigstore.verify.ibm.com/oauth2")
TRUSTED = {
    "certificate": RequiredSignature(certificates=(str(OFFICIAL / "ca-cert.pem"),)),
    "elliptic-key": RequiredSignature(keys=(str(OFFICIAL / "signing-key-pub.pem"),)),
    "sigstore": RequiredSignature(identities=(IBM,), trust_config=str(OFFICIAL / "trust_config.json")),
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_signatures_of_all_versions_verify(folder: str, capfd: pytest.CaptureFixture[str]) -> None:
    version, _, kind = folder.partition("-")
    signed = verify((OFFICIAL / folder / "model.sig").read_bytes(), TRUSTED[kind], offline=True)
    if version in {"v0.3.1", "v1.0.0"} and kind == "elliptic-key":
        # A single file was signed.
        digest = hashlib.sha256((OFFICIAL / folder / "signme-1").read_bytes()).hexdigest()
        assert signed.hashes == {".": f"sha256:{digest}"}
    else:
        found = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (OFFICIAL / folder).glob("signme*")
        }
        assert signed.hashes == {name: f"sha256:{digest}" for name, digest in found.items()}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_other_signer_is_taken_for_theirs(folder: str, tmp_path: Path) -> None:
    kind = folder.partition("-")[2]
    others = {
        "certificate": RequiredSignature(certificates=(str(authority(tmp_path, "other").file),)),
        "elliptic-key": RequiredSignature(keys=(str(key_pair(tmp_path, "other").public),)),
        "sigstore": TRUSTED["sigstore"].model_copy(
            update={"identities": (IBM.model_copy(update={"identity": "stefan@us.ibm.com"}),)}
        ),
    }
    data = (OFFICIAL / folder / "model.sig").read_bytes()
    for required in (others[kind], *(TRUSTED[other] for other in TRUSTED if other != kind)):
        with pytest.raises(Refused):
            verify(data, required, offline=True)


def test_the_public_trust_root_is_not_downloaded_in_offline_mode() -> None:
    required = RequiredSignature(identities=(IBM,))
    with pytest.raises(Offline, match="trust root of Sigstore"):
        verify((OFFICIAL / "v1.1.0-sigstore" / "model.sig").read_bytes(), required, offline=True)


def official(*argv: object) -> int:
    command = [sys.executable, "-m", "model_signing", *map(str, argv)]
    return subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.parametrize("how", ["key", "certificate"])
def test_what_the_official_tool_signs_is_verified(how: str, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "sql")
    (adapter / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    pair = key_pair(tmp_path, "acme")
    root = authority(tmp_path, "root")
    between = authority(tmp_path, "between", parent=root)
    certificate = signer(tmp_path, "acme", pair, between)
    signature = adapter / "model.sig"
    if how == "key":
        trusted = RequiredSignature(keys=(str(pair.public),))
        signing: tuple[object, ...] = ("--private_key", pair.private)
    else:
        trusted = RequiredSignature(certificates=(str(root.file),))
        signing = (
            "--private_key",
            pair.private,
            "--signing_certificate",
            certificate,
            "--certificate_chain",
            between.file,
        )
    for _ in range(2):  # the second time without the signature that is there
        assert official("sign", how, adapter, "--signature", signature, *signing) == 0
        hashes = verify(signature.read_bytes(), trusted, offline=True).hashes
        assert hashes.keys() == {"adapter_config.json", "adapter_model.safetensors"}
