"""Keys and certificates for tests, with the dates that a test asks for."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from model_signing import hashing, signing

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """The files of a private key and its public key."""

    private: Path
    public: Path
    key: ec.EllipticCurvePrivateKey


def key_pair(folder: Path, name: str, curve: ec.EllipticCurve | None = None, password: str = "") -> Pair:
    """Writes a new pair of keys."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    locked = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return Pair(private, public, key)


@dataclass(frozen=True)
class Authority:
    """A certificate and the key that signs others with it."""

    file: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def authority(
    folder: Path, name: str, *, parent: Authority | None = None, starts: int = -30, ends: int = 300
) -> Authority:
    """Writes the certificate of an authority, valid from ``starts`` to ``ends`` days from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(name, key.public_key(), parent, key, (starts, ends), is_authority=True)
    return Authority(_write(folder / f"{name}.pem", certificate), certificate, key)


def signer(
    folder: Path,
    name: str,
    pair: Pair,
    parent: Authority,
    *,
    starts: int = -10,
    ends: int = 100,
    usage: x509.ObjectIdentifier | None = None,
) -> Path:
    """Writes the certificate of somebody who signs with ``pair``; ``usage`` is its extended key usage, if any."""
    certificate = _certificate(
        name, pair.key.public_key(), parent, parent.key, (starts, ends), is_authority=False, extended=usage
    )
    return _write(folder / f"{name}.pem", certificate)


def sign(folder: Path, key: Path, output: Path | None = None, certificate: Path | None = None) -> Path:
    """Signs the files in ``folder`` as the model-signing tool does; the signature is ``output``, else its model.sig."""
    signature, config = output or folder / "model.sig", signing.Config()  # type: ignore[no-untyped-call]
    if certificate is None:
        config.use_elliptic_key_signer(private_key=key)
    else:
        config.use_certificate_signer(private_key=key, signing_certificate=certificate, certificate_chain=[certificate])
    files = hashing.Config().set_ignored_paths(paths=["model.sig"])  # type: ignore[no-untyped-call]
    config.set_hashing_config(files).sign(folder, signature)
    return signature


def _write(path: Path, certificate: x509.Certificate) -> Path:
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return path


def _certificate(
    name: str,
    key: ec.EllipticCurvePublicKey,
    parent: Authority | None,
    own: ec.EllipticCurvePrivateKey,
    days: tuple[int, int],
    *,
    is_authority: bool,
    extended: x509.ObjectIdentifier | None = None,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent.certificate.subject if parent else subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * DAY)
        .not_valid_after(now + days[1] * DAY)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )
    if extended is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([extended]), critical=False)
    return builder.sign(parent.key if parent else own, SHA256())
