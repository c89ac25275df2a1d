"""Signatures that each version of model-signing made."""

import hashlib
from pathlib import Path

import pytest

from lora_cli.documents.policy import RequiredSignature, SigstoreIdentity
from lora_cli.errors import Offline, Refused
from lora_cli.signing import verify
from tests.signing.pki import certificate, key_pair

OFFICIAL = Path(__file__).parent / "official"
FOLDERS = sorted(path.name for path in OFFICIAL.iterdir() if path.is_dir())
IBM = SigstoreIdentity(identity="stefanb@us.ibm.com", issuer="https://sigstore.verify.ibm.com/oauth2")
TRUST = str(OFFICIAL / "trust_config.json")
TRUSTED = {
    "certificate": RequiredSignature(certificates=(str(OFFICIAL / "ca-cert.pem"),)),
    "elliptic-key": RequiredSignature(keys=(str(OFFICIAL / "signing-key-pub.pem"),)),
    "sigstore": RequiredSignature(identities=(IBM,), trust_config=TRUST),
}


def signature(folder: str) -> bytes:
    return (OFFICIAL / folder / "model.sig").read_bytes()


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_signatures_of_all_versions_verify(folder: str, capfd: pytest.CaptureFixture[str]) -> None:
    version, _, kind = folder.partition("-")
    signed = verify(signature(folder), [TRUSTED[kind]], "", offline=True)
    if version in {"v0.3.1", "v1.0.0"} and kind == "elliptic-key":
        digest = hashlib.sha256((OFFICIAL / folder / "signme-1").read_bytes()).hexdigest()
        assert signed.files == {".": digest}  # a single file was signed
    else:
        files = (OFFICIAL / folder).glob("signme*")
        assert signed.files == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_other_signer_is_taken_for_theirs(folder: str, tmp_path: Path) -> None:
    kind = folder.partition("-")[2]
    stefan = IBM.model_copy(update={"identity": "stefan@us.ibm.com"})
    others = {
        "certificate": RequiredSignature(certificates=(str(certificate(tmp_path, "other").public),)),
        "elliptic-key": RequiredSignature(keys=(str(key_pair(tmp_path, "other").public),)),
        "sigstore": RequiredSignature(identities=(stefan,), trust_config=TRUST),
    }
    for required in (others[kind], *(TRUSTED[other] for other in TRUSTED if other != kind)):
        with pytest.raises(Refused):
            verify(signature(folder), [required], "", offline=True)
        with pytest.raises(Refused):
            verify(signature(folder), [TRUSTED[kind], required], "", offline=True)


def test_the_public_trust_root_is_not_downloaded_in_offline_mode() -> None:
    with pytest.raises(Offline, match="trust root of Sigstore"):
        verify(signature("v1.1.0-sigstore"), [RequiredSignature(identities=(IBM,))], "", offline=True)
