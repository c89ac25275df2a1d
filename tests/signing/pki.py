"""Keys, certificates and signatures for tests: all in one folder, by name."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from model_signing import hashing, signing


@dataclass(frozen=True)
class Pair:
    """The files of a private key and its public key."""

    private: Path
    public: Path
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Certificate:
    """A certificate, and the key that signs others with it."""

    file: Path
    content: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def key_pair(folder: Path, name: str, curve: ec.EllipticCurve | None = None) -> Pair:
    """Writes a new pair of keys."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return Pair(private, public, key)


def certificate(
    folder: Path,
    name: str,
    by: Certificate | None = None,
    *,
    pair: Pair | None = None,
    days: tuple[int, int] = (-10, 100),
    usage: x509.ObjectIdentifier | None = None,
) -> Certificate:
    """Writes a certificate that is valid between these ``days`` from now: of who has ``pair``, else an authority's.

    ``usage`` is its extended key usage, if any.
    """
    key, is_authority = pair.key if pair is not None else ec.generate_private_key(ec.SECP256R1()), pair is None
    subject, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.now(UTC)
    key_usage = x509.KeyUsage(
        digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.content.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days[0]))
        .not_valid_after(now + timedelta(days[1]))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(key_usage, critical=True)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    made = builder.sign(by.key if by else key, SHA256())
    file = folder / f"{name}.pem"
    file.write_bytes(made.public_bytes(Encoding.PEM))
    return Certificate(file, made, key)


def sign(
    folder: Path, key: Path, output: Path | None = None, chain: tuple[Path, ...] = (), ignored: tuple[str, ...] = ()
) -> Path:
    """Signs the files in ``folder`` as the model-signing tool does; the signature is ``output``, else its model.sig.

    The first certificate of the ``chain`` is the signer's.
    """
    signature, config = output or folder / "model.sig", signing.Config()  # type: ignore[no-untyped-call]
    if chain:
        config.use_certificate_signer(private_key=key, signing_certificate=chain[0], certificate_chain=chain)
    else:
        config.use_elliptic_key_signer(private_key=key)
    files = hashing.Config().set_ignored_paths(paths=["model.sig", *ignored])  # type: ignore[no-untyped-call]
    config.set_hashing_config(files).sign(folder, signature)
    return signature
