"""Verify a signature in the OpenSSF Model Signing format: a Sigstore bundle that signs one hash for each file.

model-signing parses the bundle and checks the signature. Here is what it does not do: bound the input, refuse
certificates that have expired (it checks them at the date from which the first one is valid), and name the key.
Format: https://github.com/ossf/model-signing-spec.
"""

import base64
import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from model_signing import hashing, verifying
from model_signing.manifest import Manifest
from OpenSSL import crypto

from lora_cli.documents.policy import RequiredSignature, SigstoreIdentity
from lora_cli.errors import LoraCliError, Offline, Refused, Unreachable, UsageError
from lora_cli.redaction import logger
from lora_cli.signing.trusted_files import read_trusted
from lora_cli.text import cut, safe

logger("model_signing").addHandler(logging.NullHandler())  # its warnings would be lines on stderr


LONGEST_CHAIN = 16
"""Certificates of a bundle."""

LARGEST_LOG = 1 << 18
"""Characters of a certificate of Sigstore with its entries in the log: usually about 6,000."""

SMALLEST_SHARD = 1 << 20
"""Bytes of a shard: a hash for each byte would take all memory."""

SIGNING_USAGES = {ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
CURVES = ("secp256r1", "secp384r1", "secp521r1")


@dataclass(frozen=True, slots=True)
class SignedFiles:
    """The resources that a valid signature signs, and who signed them (``by``).

    ``hashes`` maps the name of a file, or ``path:start:end`` of a shard, to ``algorithm:hex``. ``serialization`` has
    the parameters with which they were hashed.
    """

    by: str
    serialization: Mapping[str, Any]
    hashes: Mapping[str, str]

    def path_of(self, resource: str) -> str:
        """The file of a resource."""
        return resource.rsplit(":", 2)[0] if self.serialization["method"] != "files" else resource

    @property
    def is_sha256_of_files(self) -> bool:
        """Whether each file has one sha256, as blobs have."""
        return bool(self.serialization["method"] == "files" and self.serialization["hash_type"] == "sha256")


def verify(data: bytes, required: RequiredSignature, *, offline: bool) -> SignedFiles:
    """The files in a signature that one of the keys, certificates or identities of ``required`` made.

    Raises:
        Refused: it is not a signature, or none of them made it.
        UsageError: a file with a key or certificates cannot be read.
        Offline, Unreachable: the trust root of Sigstore is needed and cannot be downloaded.
    """
    bundle = _parse(data)
    material = bundle["verificationMaterial"]
    attempts: list[Callable[[], SignedFiles]] = []
    if "publicKey" in material:
        attempts += [partial(_verify_key, bundle, Path(key)) for key in required.keys]
    else:
        if "x509CertificateChain" in material and required.certificates:
            attempts.append(partial(_verify_certificates, bundle, tuple(map(Path, required.certificates))))
        attempts += [partial(_verify_identity, bundle, one, required, offline=offline) for one in required.identities]
    failures = []
    for attempt in attempts:
        try:
            return attempt()
        except Refused as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        reasons = "; ".join(dict.fromkeys(failure.message for failure in failures[:3]))
        raise Refused(f"none of the {len(failures)} allowed signers made it: {reasons}")
    kind = "a key" if "publicKey" in material else "a certificate"
    raise Refused(f"it is signed with {kind}, and the policy allows no such signer")


def _parse(data: bytes) -> dict[str, Any]:
    """The parts of the bundle that are verified, and nothing else: the libraries spend minutes on megabytes of others.

    Raises:
        Refused: it is no bundle with one signature, or has more parts than any has.
    """
    try:
        bundle = json.loads(data)
        material, envelope = bundle["verificationMaterial"], bundle["dsseEnvelope"]
        (signature,) = envelope["signatures"]
        read = {
            "mediaType": bundle["mediaType"],
            "verificationMaterial": _material(material),
            "dsseEnvelope": {
                "payload": envelope["payload"],
                "payloadType": envelope["payloadType"],
                "signatures": [{"sig": signature["sig"], "keyid": signature.get("keyid", "")}],
            },
        }
        json.dumps(read)  # nested so deeply that it cannot be written
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused("it is not a signature bundle, or is cut off") from error
    return read


def _material(material: Mapping[str, Any]) -> dict[str, Any]:
    """The key, the certificates, or the certificate of Sigstore with its entries in the transparency log."""
    if "publicKey" in material:
        hint = material["publicKey"].get("hint")
        return {"publicKey": {"hint": hint if isinstance(hint, str) else None}, "tlogEntries": []}
    if "x509CertificateChain" in material:
        chain = [{"rawBytes": str(one["rawBytes"])} for one in material["x509CertificateChain"]["certificates"]]
        if len(chain) > LONGEST_CHAIN:
            raise ValueError
        return {"x509CertificateChain": {"certificates": chain}, "tlogEntries": []}
    kept = {
        key: material[key] for key in ("certificate", "tlogEntries", "timestampVerificationData") if key in material
    }
    if len(json.dumps(kept)) > LARGEST_LOG:
        raise ValueError
    return kept


class _SignedManifest(hashing.Config):
    """Keeps the manifest of a valid signature: ``verify`` compares what ``hash`` returns with it."""

    signed: Manifest | None = None

    def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Manifest:
        """This object, which is compared in place of a folder's manifest."""
        return self  # type: ignore[return-value]

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Manifest)
        self.signed = other
        return True

    __hash__ = None  # type: ignore[assignment]


def _config() -> verifying.Config:
    return verifying.Config()  # type: ignore[no-untyped-call]


def _signed_files(bundle: Mapping[str, Any], config: verifying.Config, by: str) -> SignedFiles:
    """The files in the bundle, if it verifies with ``config``.

    Raises:
        Refused: it does not verify.
    """
    taken = _SignedManifest()  # type: ignore[no-untyped-call]
    with tempfile.NamedTemporaryFile("w", suffix=".sig") as file, _refusals(by):
        json.dump(bundle, file)
        file.flush()
        config.set_hashing_config(taken).verify(file.name, file.name)
    assert taken.signed is not None
    return SignedFiles(by, taken.signed.serialization_type, _hashes(taken.signed))


def _hashes(manifest: Manifest) -> dict[str, str]:
    """The hash of each resource, as ``SignedFiles.hashes``."""
    return {
        one.identifier: f"{one.digest.algorithm}:{one.digest.digest_hex}" for one in manifest.resource_descriptors()
    }


@contextmanager
def _refusals(by: str) -> Iterator[None]:
    """Turns every error of the libraries into ``Refused``: they raise whatever a broken bundle leads to."""
    try:
        yield
    except (LoraCliError, MemoryError, OSError):
        raise
    except InvalidSignature as error:
        raise Refused(f"{by} did not make it") from error
    except Exception as error:
        reason = cut(safe(str(error).strip().partition("\n")[0])) or type(error).__name__
        raise Refused(f"it does not verify with {by}: {reason}") from error


def _verify_key(bundle: Mapping[str, Any], path: Path) -> SignedFiles:
    """Verify with an ECDSA key on P-256, P-384 or P-521."""
    by = f"the key {path.name}"
    try:
        key = load_pem_public_key(read_trusted(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} is not a public key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise UsageError(f"{path}: must be an ECDSA key on P-256, P-384 or P-521")
    own = hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
    material = bundle["verificationMaterial"]
    if (named := material["publicKey"]["hint"]) and named != own:
        raise Refused(f"{by} did not make it")
    # model-signing prints a warning on stdout for a bundle that does not name its key.
    complete = {**bundle, "verificationMaterial": {**material, "publicKey": {"hint": own}}}
    return _signed_files(complete, _config().use_elliptic_key_verifier(public_key=path), by)


def _verify_certificates(bundle: Mapping[str, Any], paths: Collection[Path]) -> SignedFiles:
    """Verify with a certificate that chains to one of the root certificates in ``paths``; all must be valid now."""
    by = f"a certificate of {', '.join(path.name for path in paths)}"
    roots = [one for path in paths for one in read_certificates(path)]
    config = _config().use_certificate_verifier(certificate_chain=paths)
    found = _signed_files(bundle, config, by)
    with _refusals(by):
        chain = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"]
        leaf = _check_dates([_certificate(one) for one in chain], roots)
        _check_usage(leaf)
    return SignedFiles(f"{leaf.subject.rfc4514_string()} ({by})", found.serialization, found.hashes)


def read_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates in a file of the operator's.

    Raises:
        UsageError: it has none, or cannot be read.
    """
    try:
        return x509.load_pem_x509_certificates(read_trusted(path))
    except ValueError as error:
        raise UsageError(f"{path} has no certificate in PEM") from error


def _certificate(value: Mapping[str, Any]) -> x509.Certificate:
    return x509.load_der_x509_certificate(base64.b64decode(value["rawBytes"]))


def _check_dates(chain: list[x509.Certificate], roots: list[x509.Certificate]) -> x509.Certificate:
    """Checks that every certificate, from the signer's to the root's, is valid now; returns the signer's.

    Raises:
        Refused: one has expired, or is not valid yet.
    """
    store = crypto.X509Store()
    for root in roots:
        store.add_cert(crypto.X509.from_cryptography(root))
    leaf, *others = (crypto.X509.from_cryptography(one) for one in chain)
    try:
        crypto.X509StoreContext(store, leaf, others).verify_certificate()
    except crypto.X509StoreContextError as error:
        wrong = error.certificate.to_cryptography()
        dates = f"{wrong.not_valid_before_utc:%Y-%m-%d} to {wrong.not_valid_after_utc:%Y-%m-%d}"
        subject = cut(safe(wrong.subject.rfc4514_string()))
        raise Refused(f"{error}: {subject} is valid from {dates}") from error
    return chain[0]


def _check_usage(leaf: x509.Certificate) -> None:
    """Checks that a certificate is one for signing: many of a company's root are for its servers and its mail.

    Raises:
        Refused: it is for something else.
    """
    subject = cut(safe(leaf.subject.rfc4514_string()))
    for extension in leaf.extensions:
        value = extension.value
        if isinstance(value, x509.ExtendedKeyUsage) and not {*value} & SIGNING_USAGES:
            raise Refused(f"the certificate of {subject} is not for signing code")


def _verify_identity(
    bundle: Mapping[str, Any], one: SigstoreIdentity, required: RequiredSignature, *, offline: bool
) -> SignedFiles:
    """Verify with a certificate that Sigstore issued to an identity, and its entry in the transparency log."""
    from sigstore.errors import NetworkError, TUFError

    if offline and required.trust_config is None:
        raise Offline(
            "the trust root of Sigstore must be downloaded, but offline mode is on",
            hint="set trust_config in the policy to a copy of it",
        )
    trust = Path(required.trust_config) if required.trust_config is not None else None
    if trust is not None:
        read_trusted(trust)
    try:
        config = _config().use_sigstore_verifier(identity=one.identity, oidc_issuer=one.issuer, trust_config=trust)
    except (NetworkError, TUFError, OSError) as error:
        raise Unreachable("the trust root of Sigstore could not be downloaded") from error
    except ValueError as error:
        raise UsageError(f"{trust} is not a trust configuration of Sigstore") from error
    return _signed_files(bundle, config, f"{one.identity} ({one.issuer})")


def hash_again(signed: SignedFiles, folder: Path, paths: Collection[str]) -> dict[str, str]:
    """The resources of files in ``folder``, hashed as the signature has them; as ``SignedFiles.hashes``.

    Raises:
        Refused: they are hashed in a way that is not supported.
    """
    how = signed.serialization
    config = hashing.Config()  # type: ignore[no-untyped-call]
    with _refusals(signed.by):
        algorithm = {"blake2b": "blake2"}.get(how["hash_type"], how["hash_type"])  # model-signing has both names
        if how["method"] == "files":
            config.use_file_serialization(hashing_algorithm=algorithm)
        else:
            size = int(how["shard_size"])  # protobuf's JSON has all numbers as floats
            if size < SMALLEST_SHARD:
                raise Refused(f"its shards of {size} bytes are too small")
            config.use_shard_serialization(hashing_algorithm=algorithm, shard_size=size)
        return _hashes(config.hash(folder, files_to_hash=[folder / path for path in paths]))
