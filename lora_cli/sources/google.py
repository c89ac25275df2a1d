"""Who asks Google Cloud Storage, and where: found as Google's own tools find it."""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

from lora_cli.documents.manifest import SourceRule
from lora_cli.errors import AccessDenied, LoraCliError, MissingExtra, UsageError
from lora_cli.redaction import remember
from lora_cli.settings import home_of
from lora_cli.sources.tokens import token_of
from lora_cli.sources.trusted import NOTHING, Trust, check_endpoint
from lora_cli.sources.urls import checked_endpoint

FILE_CAP = 1 << 20
PROBE_S = 2.0
SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
GOOGLE = "https://storage.googleapis.com"
VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
_TRUE = frozenset({"1", "true", "yes", "on"})
# What obstore reads itself; any other kind is google.auth's.
_OBSTORES_OWN = frozenset({"service_account", "authorized_user"})
_HINT = (
    f"run `gcloud auth application-default login`, or set {VARIABLE}; GOOGLE_SKIP_SIGNATURE=true for a public bucket"
)


@dataclass(frozen=True, slots=True)
class GoogleAccount:
    """Whose requests they are, and where they go.

    ``config`` is what obstore is told; ``provider`` gives a token where obstore has no way to one. ``endpoint`` is ""
    for Google itself.
    """

    found_in: str
    endpoint: str
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    provider: Callable[[], Any] | None = field(default=None, repr=False)


def find_google_account(
    environ: Mapping[str, str], rule: SourceRule | None = None, trust: Trust = NOTHING
) -> GoogleAccount:
    """The account for a source: what ``rule`` says, else the application default credentials.

    Those are a file (``GOOGLE_APPLICATION_CREDENTIALS``, or gcloud's own), else the metadata server of a machine of
    Google's, which is given two seconds to accept a connection. An emulator (``STORAGE_EMULATOR_HOST``) asks nobody.
    ``trust`` is what the operator lets a rule use of all this. obstore follows any redirect, and cannot be told not to:
    a server that only the rule names is not asked at all.

    Raises:
        Refused: the rule may not name that server, or read that variable.
        AccessDenied: there are no credentials.
        UsageError: the file cannot be read, or the rule's variable is not set.
        MissingExtra: the file is of a kind that needs google.auth.
    """
    endpoint = (rule.endpoint_url if rule is not None else None) or google_endpoint_in(environ)
    if rule is not None:
        check_endpoint(rule, trust, [google_endpoint_in(environ), GOOGLE], "requests for gs://")
    if rule is not None and rule.token_env:
        return GoogleAccount(rule.token_env, endpoint, {"bearer_token": token_of(rule, environ, trust)})
    asked = environ.get("GOOGLE_SKIP_SIGNATURE", "").lower() in _TRUE or bool(environ.get("STORAGE_EMULATOR_HOST"))
    if asked or (rule is not None and rule.anonymous):
        return GoogleAccount("nobody", endpoint, {"skip_signature": True})
    file, found_in = _file(environ)
    if file is None:
        _check_metadata_server(environ)
        return GoogleAccount("this machine's metadata", endpoint)
    if _kind_of(file, found_in) in _OBSTORES_OWN:
        return GoogleAccount(found_in, endpoint, {"application_credentials": str(file)})
    return GoogleAccount(found_in, endpoint, provider=_library(file, found_in))


def google_endpoint_in(environ: Mapping[str, str]) -> str:
    """The address of the server that the environment names, "" for Google itself."""
    emulator = environ.get("STORAGE_EMULATOR_HOST", "")
    if not emulator:
        return ""
    return checked_endpoint(emulator if "://" in emulator else f"http://{emulator}", "STORAGE_EMULATOR_HOST")


def _file(environ: Mapping[str, str]) -> tuple[Path | None, str]:
    if named := environ.get(VARIABLE):
        return Path(named), VARIABLE
    home = environ.get("CLOUDSDK_CONFIG") or home_of(environ) / ".config" / "gcloud"
    known = Path(home, "application_default_credentials.json")
    return (known, "gcloud's default credentials") if known.is_file() else (None, "")


def _kind_of(file: Path, found_in: str) -> str:
    try:
        with file.open("rb") as stream:
            document = json.loads(stream.read(FILE_CAP))
    except OSError as error:
        raise UsageError(f"{found_in}: {file} cannot be read: {error.strerror}", hint="check the path") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{found_in}: {file} holds no credentials: it is not JSON", hint=_HINT) from error
    kind = document.get("type") if isinstance(document, dict) else None
    if not isinstance(kind, str):
        raise UsageError(f"{found_in}: {file} holds no credentials: it has no type", hint=_HINT)
    return kind


def _check_metadata_server(environ: Mapping[str, str]) -> None:
    """Whether anybody listens where a machine of Google's has its metadata server: elsewhere a request would hang."""
    import socket

    named = environ.get("GCE_METADATA_HOST") or environ.get("GCE_METADATA_IP") or "169.254.169.254"
    name, _, port = named.partition(":")
    try:
        socket.create_connection((name, int(port) if port.isdecimal() else 80), PROBE_S).close()
    except OSError as error:
        raise no_credentials() from error


def no_credentials() -> LoraCliError:
    """There are none, anywhere."""
    return AccessDenied("no Google credentials were found", hint=_HINT)


def _library(file: Path, found_in: str) -> Callable[[], Any]:
    """A provider over google.auth: federated and impersonated identities."""
    try:
        import google.auth
        import google.auth.credentials
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request
    except ImportError as error:
        raise MissingExtra(f"gs:// with the credentials of {found_in}", "gcs", "google-auth") from error
    try:
        load: Any = google.auth.load_credentials_from_file
        scoped: Any = google.auth.credentials.with_scopes_if_required
        with warnings.catch_warnings():
            # It warns of files that somebody else wrote: this one is named by the user, or gcloud's own.
            warnings.simplefilter("ignore", DeprecationWarning)
            # With a scope it would ask another service for the name of the project, which nobody needs.
            credentials = scoped(load(str(file))[0], [SCOPE])
    except (GoogleAuthError, ValueError) as error:
        raise UsageError(f"{found_in}: {file} holds no credentials that can be used", hint=_HINT) from error

    def provide() -> Any:
        credentials.refresh(Request())
        remember(credentials.token or "")
        return {"token": credentials.token, "expires_at": credentials.expiry.replace(tzinfo=UTC)}

    try:
        provide()
    except GoogleAuthError as error:
        kind = type(error).__name__
        hint = "check what the file says with `gcloud auth application-default print-access-token`"
        raise AccessDenied(f"the credentials of {found_in} give no token ({kind})", hint=hint) from error
    return provide
