"""``lora-cli sign``: signs the files of an adapter in the OpenSSF Model Signing format."""

from functools import partial
from pathlib import Path
from typing import TypeVar

import typer

from lora_cli import redaction
from lora_cli.cli import options
from lora_cli.cli.adapter_selection import apply_policies
from lora_cli.cli.options import OUTPUT, option, origin_of
from lora_cli.cli.output import check_writable, inform, write
from lora_cli.core.adapter_files import SIGNATURE
from lora_cli.core.adapter_request import AdapterRequest
from lora_cli.errors import MissingExtra, NotFound, UsageError
from lora_cli.fetching.context import FetchContext
from lora_cli.fetching.pipeline import fetch
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.disk import on_disk, write_file
from lora_cli.validation import ref_of

T = TypeVar("T")

SIGNER = "Signer"

EXAMPLES = (
    "lora-cli sign ./adapter --key acme.key",
    "lora-cli sign acme/sql@v2 --key acme.key --output sql.sig",
    "lora-cli sign ./adapter --key acme.key --certificate acme.pem --chain ca.pem",
)


def command(
    ctx: typer.Context,
    ref: str = typer.Argument(metavar="REF", help="A folder, or an adapter that is fetched first."),
    key: Path | None = option("--key FILE", "Private key in PEM: ECDSA on P-256, P-384 or P-521.", None, SIGNER),
    key_password: str = option("--key-password TEXT", "Password of the key.", "", SIGNER),
    certificate: Path | None = option("--certificate FILE", "Certificate of the key, in PEM.", None, SIGNER),
    chain: list[Path] | None = option(
        "--chain FILE", "Certificates up to the root, in PEM; may be repeated.", None, SIGNER
    ),
    identity: bool = option(
        "--identity", "Sign with a Sigstore identity: of a CI job, or of a browser.", False, SIGNER
    ),
    trust_config: Path | None = option(
        "--trust-config FILE", "With --identity: a trust configuration of Sigstore.", None, SIGNER
    ),
    policy: options.PolicyFile = None,
    output: Path | None = option(
        "--output -o FILE",
        f"Signature to write; - is standard output (default: {SIGNATURE} in the folder).",
        None,
        OUTPUT,
    ),
) -> None:
    """Sign all files of an adapter: a policy's require_signature accepts only what the right key signed."""
    settings: Settings = apply_policies(ctx.obj, None, policy)
    redaction.remember(key_password)
    # An option on the command line wins over the variables of the other kind of signer.
    typed = partial(_typed, ctx)
    if typed("identity", identity):
        key, key_password = typed("key", key), typed("key_password", key_password) or ""
        certificate, chain = typed("certificate", certificate), typed("chain", chain)
    elif typed("key", key):
        identity, trust_config = bool(typed("identity", identity)), typed("trust_config", trust_config)
    about_the_key = bool(certificate or chain or key_password)
    _check_signer(key, identity=identity, about_the_key=about_the_key, trust_config=trust_config)
    if chain and certificate is None:
        raise UsageError("--chain needs --certificate")
    try:
        from lora_cli.signing import sign  # model-signing
    except ImportError as error:
        raise MissingExtra("sign", "signing", error.name or "model-signing") from error
    parsed = ref_of(ref)
    if parsed.scheme == "file":
        folder = Path(parsed.location)
        if not folder.is_dir():
            raise NotFound(f"{folder} is not a folder", hint="sign signs all files of a folder")
        output = output or folder / SIGNATURE
    elif output is None:
        raise UsageError(f"{ref} is not a folder: its signature needs a file", hint=f"--output {SIGNATURE}")
    check_writable(output)
    with FetchContext(Store(settings.cache_dir), settings) as context:
        if parsed.scheme != "file":
            folder = fetch(AdapterRequest("", parsed), context).snapshot.directory
        if key is None:
            data = sign.sign_with_identity(folder, output, trust_config)
        else:
            signer = sign.SigningKey(key, key_password, certificate, tuple(chain or ()))
            data = sign.sign_with_key(folder, signer, output)
    if str(output) == "-":
        write(data.decode())
        return
    with on_disk("writing", output, "--output"):
        write_file(output, data)
    inform(f"signed {folder}", settings)
    write(f"{output}\n")


def _typed(ctx: typer.Context, name: str, value: T) -> T | None:
    """The ``value`` of an option; None if a variable has it."""
    return None if origin_of(ctx, name) == "ENVIRONMENT" else value


def _check_signer(key: Path | None, *, identity: bool, about_the_key: bool, trust_config: Path | None) -> None:
    """Checks that there is one signer, and no option of the other kind.

    Raises:
        UsageError: there is none, there are two, or an option does not belong to it.
    """
    if identity and key is not None:
        raise UsageError("--key and --identity cannot be used together", hint="remove one of them")
    if not identity and key is None:
        raise UsageError("sign needs --key, or --identity", hint="lora-cli sign FOLDER --key acme.key")
    if identity and about_the_key:
        raise UsageError("--certificate, --chain and --key-password belong to --key")
    if not identity and trust_config is not None:
        raise UsageError("--trust-config belongs to --identity")
