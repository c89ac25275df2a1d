"""Who signed which files: signatures in the OpenSSF Model Signing format, verified by model-signing (an extra).

Here is what it leaves open: bounds, certificates that expired or are for servers, and files that a fetch leaves out.
"""

import base64
import hashlib
import json
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from model_signing import hashing, verifying
from OpenSSL import crypto
from sigstore.errors import NetworkError, TUFError

from lora_cli.documents.policy import RequiredSignature
from lora_cli.errors import Offline, Refused, Unreachable, UsageError
from lora_cli.refs.snapshot import Blob
from lora_cli.text import cut, names, safe

MOST_BESIDE = 1 << 16
"""Bytes of a signature beside its list of files: Sigstore's have about 6,000, and megabytes would take minutes."""

IGNORED = re.compile(r"model\.sig|\.gitattributes|\.gitignore|\.git(hub)?/.*", re.DOTALL)
"""What model-signing leaves out of each signature. Other files that a signature leaves out are not accepted."""


@dataclass(frozen=True, slots=True)
class Signed:
    """What a valid signature signs: the sha256 of each path, and ``by`` whom. Messages begin with ``where``."""

    where: str
    by: tuple[str, ...]
    files: Mapping[str, str]

    def check(self, found: Mapping[str, Blob], listed: Iterable[str], wanted: Collection[str]) -> None:
        """Raises ``Refused`` if a ``found`` file was changed, a ``listed`` path added, or a ``wanted`` one removed."""
        differences = {
            "changed since": [path for path, blob in found.items() if self.files.get(path, blob.sha256) != blob.sha256],
            "signed, but missing": sorted({*wanted} - found.keys()),
            "not signed": sorted(path for path in {*listed} - self.files.keys() if not IGNORED.fullmatch(path)),
        }
        if told := "; ".join(f"{what}: {names(some)}" for what, some in differences.items() if some):
            raise Refused(f"{self.where}: {told}", hint="do not use these files: ask their publisher")


class _SignedList(hashing.Config):  # noqa: PLW1641
    """Takes the list of a valid signature, which is compared with it, in place of a folder: downloads are hashed."""

    manifest: Any = None

    def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Any:
        return self

    def __eq__(self, other: object) -> bool:
        self.manifest = other
        return True


def verify(data: bytes, required: Sequence[RequiredSignature], where: str, *, offline: bool) -> Signed:
    """What the signature ``data`` signs, which one of the signers of each of ``required`` must have made.

    Raises:
        Refused: it is no signature, or somebody else made it.
        UsageError: a file of the policy cannot be read.
        Offline, Unreachable: the trust root of Sigstore is needed and cannot be downloaded.
    """
    try:
        bundle = json.loads(data)
        material = dict(bundle["verificationMaterial"])
        beside = len(data) - len(bundle["dsseEnvelope"]["payload"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(f"{where}: it is not a signature bundle, or is cut off") from error
    if beside > MOST_BESIDE:
        raise Refused(f"{where}: it has {beside} bytes beside its list of files, but {MOST_BESIDE} are allowed")
    config, signed, signers = verifying.Config(), _SignedList(), dict[str, None]()  # type: ignore[no-untyped-call]
    config.set_hashing_config(signed)
    for entry in required:
        failures = []
        for by in _allowed(entry, material, config, offline):
            try:
                with tempfile.NamedTemporaryFile("w", suffix=".sig") as file:
                    json.dump({**bundle, "verificationMaterial": material}, file)
                    file.flush()
                    config.verify(file.name, file.name)
                signers[_valid_today(material, entry.certificates) if "x509CertificateChain" in material else by] = None
                break
            except Exception as error:  # noqa: BLE001 - the libraries raise whatever a broken bundle leads to
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                failures.append(f"{by} did not make it: {cut(safe(reason))}")
        else:
            raise Refused(f"{where}: {'; '.join(failures) or 'the policy allows no signer of its kind'}")
    found = list(signed.manifest.resource_descriptors())
    if any(one.digest.algorithm != "sha256" for one in found):
        raise Refused(f"{where}: it has no sha256 of its files", hint="sign with model_signing's default hashes")
    return Signed(where, tuple(signers), {one.identifier: one.digest.digest_hex for one in found})


def _allowed(
    entry: RequiredSignature, material: dict[str, Any], config: verifying.Config, offline: bool
) -> Iterator[str]:
    """Each signer that an entry allows for such a bundle, when ``config`` is ready to verify that it is by them."""
    at: str | None = ""
    try:
        for at in entry.keys if "publicKey" in material else ():
            config.use_elliptic_key_verifier(public_key=at)
            key = load_pem_public_key(Path(at).read_bytes())
            pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            # model-signing prints a warning on stdout for a bundle that does not name its key, as older ones do not.
            material["publicKey"] = {"hint": hashlib.sha256(pem).hexdigest()}
            yield f"the key {Path(at).name}"
        if entry.certificates and "x509CertificateChain" in material:
            at, roots = " and ".join(entry.certificates), [Path(one) for one in entry.certificates]
            config.use_certificate_verifier(certificate_chain=roots)
            yield f"a certificate of {names([root.name for root in roots])}"
        for one in entry.identities if "certificate" in material else ():
            if offline and entry.trust_config is None:
                raise Offline("the trust root of Sigstore must be downloaded", hint="set trust_config in the policy")
            at, trust = entry.trust_config, None if entry.trust_config is None else Path(entry.trust_config)
            config.use_sigstore_verifier(identity=one.identity, oidc_issuer=one.issuer, trust_config=trust)
            yield f"{one.identity} ({one.issuer})"
    except (NetworkError, TUFError) as error:
        raise Unreachable(f"the trust root of Sigstore could not be downloaded: {error}") from error
    except (ValueError, OSError, AttributeError) as error:
        raise UsageError(f"{at} cannot be used to verify signatures: {error}", hint="check the policy") from error


def _valid_today(material: Mapping[str, Any], roots: Sequence[str]) -> str:
    """The signer's name in a chain of certificates, all of which must be valid now, and the first one for signing.

    model-signing checks them at the date from which the first one is valid, and takes a company's servers for signers.
    """
    store = crypto.X509Store()
    for root in x509.load_pem_x509_certificates(b"".join(Path(one).read_bytes() for one in roots)):
        store.add_cert(crypto.X509.from_cryptography(root))
    encoded = [one["rawBytes"] for one in material["x509CertificateChain"]["certificates"]]
    certificates = [x509.load_der_x509_certificate(base64.b64decode(one, validate=True)) for one in encoded]
    signer, *chain = map(crypto.X509.from_cryptography, certificates)
    crypto.X509StoreContext(store, signer, chain).verify_certificate()
    usages = [one.value for one in certificates[0].extensions if isinstance(one.value, x509.ExtendedKeyUsage)]
    if usages and ExtendedKeyUsageOID.CODE_SIGNING not in usages[0]:
        raise ValueError("its certificate is not for signing code")
    return certificates[0].subject.rfc4514_string()
