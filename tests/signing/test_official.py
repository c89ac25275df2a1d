"""Signatures that each version of model-signing made, and what is none."""

import hashlib
import json
from pathlib import Path
from typing import Any

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


NO_BUNDLES = (b"", b"null", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"verificationMaterial": {}}')
KINDS = ("publicKey", "x509CertificateChain", "certificate")
MATERIALS: tuple[Any, ...] = (None, "x", [], {"certificates": [{"rawBytes": "AAAA"}]}, [{}] * 100_000)


@pytest.mark.parametrize("kind", ["certificate", "elliptic-key"])
def test_any_other_file_is_no_signature(kind: str) -> None:
    envelope = {"payload": "AAAA", "payloadType": "x", "signatures": [{"sig": "AAAA", "keyid": ""}]}
    bundle = {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "dsseEnvelope": envelope}
    made = [json.dumps({**bundle, "verificationMaterial": {name: one}}).encode() for name in KINDS for one in MATERIALS]
    for data in (*NO_BUNDLES, *made):
        with pytest.raises(Refused, match=r"^model\.sig: "):
            verify(data, [TRUSTED[kind]], "model.sig", offline=True)
