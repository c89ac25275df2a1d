"""Sign the files of a folder in the OpenSSF Model Signing format, with model-signing."""

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from model_signing import hashing, signing
from sigstore.errors import Error as SigstoreError

from lora_cli.core.adapter_files import SIGNATURE
from lora_cli.core.text import cut, safe
from lora_cli.errors import Refused, Unreachable, UsageError
from lora_cli.signing.trusted_files import read_trusted
from lora_cli.signing.verify import CURVES, read_certificates


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A file with an ECDSA key in PEM, its ``password`` if it is encrypted, and the ``certificate`` for it, if any.

    ``chain`` are files with the certificates between that one and the root, which are written into the signature.
    """

    key: Path
    password: str = ""
    certificate: Path | None = None
    chain: Sequence[Path] = ()


def sign_with_key(folder: Path, signer: SigningKey, output: Path) -> bytes:
    """The signature of the files in ``folder``, without ``SIGNATURE``, ``output`` and the files of git.

    Raises:
        UsageError: the key or a certificate cannot be used.
        Refused: a file cannot be signed: it is a link.
    """
    key = private_key(signer)
    config = signing.Config()  # type: ignore[no-untyped-call]
    if signer.certificate is None:
        # model-signing passes the password on as it is, and cryptography takes bytes.
        password = signer.password.encode() or None
        config.use_elliptic_key_signer(private_key=signer.key, password=password)  # type: ignore[arg-type]
    else:
        if signer.password:
            raise UsageError(f"{signer.key}: a key with a certificate cannot be encrypted")
        certificates = [read_certificates(path)[0] for path in (signer.certificate, *signer.chain)]
        if certificates[0].public_key() != key.public_key():
            raise UsageError(f"{signer.certificate} is not the certificate of {signer.key}")
        # model-signing does not take an empty chain.
        chain = signer.chain or (signer.certificate,)
        config.use_certificate_signer(
            private_key=signer.key, signing_certificate=signer.certificate, certificate_chain=chain
        )
    return _sign(folder, config, output)


def sign_with_identity(folder: Path, output: Path, trust_config: Path | None = None) -> bytes:
    """The signature of the files in ``folder`` by an identity of Sigstore: that of a CI job, or one from a browser.

    Raises:
        Unreachable: Sigstore cannot be reached, or does not give a certificate.
        UsageError: ``trust_config`` cannot be used.
        Refused: a file cannot be signed: it is a link.
    """
    if trust_config is not None:
        read_trusted(trust_config)
    try:
        config = signing.Config()  # type: ignore[no-untyped-call]
        config.use_sigstore_signer(use_ambient_credentials=True, trust_config=trust_config)
        return _sign(folder, config, output)
    except (SigstoreError, OSError) as error:
        raise Unreachable(f"Sigstore gave no certificate: {cut(safe(str(error)))}") from error


def private_key(signer: SigningKey) -> ec.EllipticCurvePrivateKey:
    """The key of ``signer``.

    Raises:
        UsageError: it cannot be read or used.
    """
    try:
        key = load_pem_private_key(read_trusted(signer.key), signer.password.encode() or None)
    except TypeError as error:
        state = "is not encrypted, but there is a password" if signer.password else "is encrypted"
        raise UsageError(
            f"{signer.key} {state}", hint="set LORA_CLI_KEY_PASSWORD to its password, if it has one"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{signer.key} is not a private key in PEM, or its password is wrong") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise UsageError(
            f"{signer.key}: must be an ECDSA key on P-256, P-384 or P-521",
            hint="openssl ecparam -name prime256v1 -genkey -noout -out acme.key",
        )
    return key


def _sign(folder: Path, config: signing.Config, output: Path) -> bytes:
    ignored = [Path(SIGNATURE)]
    with suppress(ValueError):
        ignored.append(output.resolve().relative_to(folder.resolve()))
    files = hashing.Config()  # type: ignore[no-untyped-call]
    config.set_hashing_config(files.set_ignored_paths(paths=ignored))
    with tempfile.TemporaryDirectory() as temporary:
        signature = Path(temporary) / SIGNATURE
        try:
            config.sign(folder, signature)
        except ValueError as error:
            hint = "sign a copy without links: lora-cli fetch FOLDER --to COPY"
            raise Refused(f"{folder} cannot be signed: {cut(safe(str(error)))}", hint=hint) from error
        return signature.read_bytes()
