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
class Signer:
    """The file of a public key or certificate, and the private key to it."""

    public: Path
    key: ec.EllipticCurvePrivateKey
    content: x509.Certificate | None = None


def key_pair(folder: Path, name: str) -> Signer:
    """Writes a new pair of keys: ``name.key`` and ``name.pub``."""
    key, public = ec.generate_private_key(ec.SECP256R1()), folder / f"{name}.pub"
    (folder / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return Signer(public, key)


def certificate(
    folder: Path,
    name: str,
    by: Signer | None = None,
    *,
    of: Signer | None = None,
    days: tuple[int, int] = (-10, 100),
    usage: x509.ObjectIdentifier | None = None,
) -> Signer:
    """Writes a certificate that is valid between these ``days`` from now: of a signer, else of an authority.

    ``usage`` is its extended key usage, if any.
    """
    key, now = of.key if of else ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    never = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.content.subject if by and by.content else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days[0]))
        .not_valid_after(now + timedelta(days[1]))
        .add_extension(x509.BasicConstraints(ca=not of, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=bool(of), key_cert_sign=not of, crl_sign=not of, **never), True)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    made, file = builder.sign(by.key if by else key, SHA256()), folder / f"{name}.pem"
    file.write_bytes(made.public_bytes(Encoding.PEM))
    return Signer(file, key, made)


def sign(
    folder: Path, key: Path, output: Path | None = None, chain: tuple[Path, ...] = (), ignored: tuple[str, ...] = ()
) -> None:
    """Signs the files in ``folder`` as the model-signing tool does; the signature is ``output``, else its model.sig.

    The first certificate of the ``chain`` is the signer's.
    """
    config = signing.Config()  # type: ignore[no-untyped-call]
    if chain:
        config.use_certificate_signer(private_key=key, signing_certificate=chain[0], certificate_chain=chain)
    else:
        config.use_elliptic_key_signer(private_key=key)
    files = hashing.Config().set_ignored_paths(paths=["model.sig", *ignored])  # type: ignore[no-untyped-call]
    config.set_hashing_config(files).sign(folder, output or folder / "model.sig")
