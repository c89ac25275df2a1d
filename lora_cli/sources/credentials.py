"""Credentials and endpoints of Google Cloud Storage and Azure, found as the providers' tools find them."""

import logging
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import AccessDenied, MissingExtra, UsageError
from lora_cli.redaction import remember
from lora_cli.settings import home_of
from lora_cli.sources.http import checked_endpoint
from lora_cli.sources.tokens import token_of

PROBE_S = 2.0
SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
GOOGLE = "https://storage.googleapis.com"
GOOGLE_FILE = "GOOGLE_APPLICATION_CREDENTIALS"
_TRUE = frozenset({"1", "true", "yes", "on"})
_GOOGLE_HINT = (
    f"run `gcloud auth application-default login`, or set {GOOGLE_FILE}; GOOGLE_SKIP_SIGNATURE=true for a public bucket"
)

# The first is obstore's and the SDK's name, the others are those of the az command and of blobfuse.
_ACCOUNTS = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
_KEYS = ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCESS_KEY")
_SIGNATURES = ("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY")
_AZURE_SERVER = "AZURE_STORAGE_ENDPOINT"


@dataclass(frozen=True, slots=True)
class CloudAccount:
    """The account of requests, and their server.

    ``found_in`` is where the credentials are from, ``endpoint`` the address of the server. ``provider`` gives obstore
    the credentials of this moment (None: requests are anonymous).
    """

    found_in: str
    endpoint: str
    provider: Callable[[], Any] | None = field(default=None, repr=False)


def find_google_account(environ: Mapping[str, str], rule: SourceRule | None = None) -> CloudAccount:
    """The account for Google Cloud Storage: that of ``rule``, else the application default credentials.

    Those are a file (``GOOGLE_APPLICATION_CREDENTIALS``, or gcloud's own), else the metadata server of a machine of
    Google's, which is given two seconds to accept a connection. An emulator (``STORAGE_EMULATOR_HOST``) needs no
    credentials. obstore follows any redirect, and cannot be told not to.

    Raises:
        AccessDenied: there are no credentials.
        UsageError: the file cannot be read, or the rule's variable is not set.
        MissingExtra: google-auth is not installed.
    """
    asked = environ.get("GOOGLE_SKIP_SIGNATURE", "").lower() in _TRUE or bool(environ.get("STORAGE_EMULATOR_HOST"))
    endpoint = _endpoint(rule, google_endpoint(environ))
    if named := _from_rule(rule, environ, endpoint, anonymous=asked):
        return named
    file, found_in = _google_file(environ)
    if file is None:
        _check_metadata_server(environ)
    return CloudAccount(found_in, endpoint, _google_tokens(file, found_in))


def google_endpoint(environ: Mapping[str, str]) -> str:
    """The address that is asked for ``gs://``: the one that the environment names, else Google's.

    Raises:
        UsageError: what the environment names is no address.
    """
    emulator = environ.get("STORAGE_EMULATOR_HOST", "")
    if not emulator:
        return GOOGLE
    return checked_endpoint(emulator if "://" in emulator else f"http://{emulator}", "STORAGE_EMULATOR_HOST")


def find_azure_account(location: str, environ: Mapping[str, str], rule: SourceRule | None = None) -> CloudAccount:
    """The account for a container of Azure: that of ``rule``, else the environment's, else Azure's default chain.

    ``location`` is that of a reference. A key and a shared access signature of the environment are for the account that
    it names, and for no other. The chain is azure-identity's ``DefaultAzureCredential``.

    Raises:
        UsageError: the account is not given, or the rule's variable is not set.
        MissingExtra: azure-identity is not installed.
    """
    account = azure_account(location, environ)
    if not account:
        hint = f"set {_ACCOUNTS[0]}, or write abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH"
        raise UsageError(f"az://{location}: its storage account is unknown", hint=hint)
    asked = environ.get("AZURE_SKIP_SIGNATURE", "").lower() in _TRUE
    endpoint = _endpoint(rule, azure_endpoint(location, environ))
    if named := _from_rule(rule, environ, endpoint, anonymous=asked):
        return named
    if account == azure_account("", environ):
        for kind, names in (("access_key", _KEYS), ("sas_token", _SIGNATURES)):
            name, value = _first(environ, names)
            if value:
                return CloudAccount(name, endpoint, _constant(kind, value.removeprefix("?")))
    return CloudAccount("Azure's default credentials", endpoint, _azure_tokens())


def azure_account(location: str, environ: Mapping[str, str]) -> str:
    """The storage account that a reference names, else the environment's; "" for none.

    Raises:
        UsageError: what the environment names cannot be one.
    """
    if named := location.partition("/")[0].partition("@")[2]:
        return named.partition(".")[0]
    variable, account = _first(environ, _ACCOUNTS)
    if account and not re.fullmatch(r"[a-z0-9]{3,24}", account, re.ASCII):
        raise UsageError(f"{variable}: this is not the name of a storage account", hint="write only the account name")
    return account


def azure_endpoint(location: str, environ: Mapping[str, str]) -> str:
    """The address that is asked for a reference; the one that the environment names is its own account's.

    It is "" if not given which account that is.

    Raises:
        UsageError: what the environment names is no address, or no account.
    """
    account = azure_account(location, environ)
    if account and account == azure_account("", environ) and environ.get(_AZURE_SERVER):
        return checked_endpoint(environ[_AZURE_SERVER], _AZURE_SERVER)
    return f"https://{account}.blob.core.windows.net" if account else ""


def _endpoint(rule: SourceRule | None, own: str) -> str:
    """The address that ``rule`` names, else ``own``."""
    return ((rule and rule.endpoint_url) or own).rstrip("/")


def _from_rule(
    rule: SourceRule | None, environ: Mapping[str, str], endpoint: str, *, anonymous: bool
) -> CloudAccount | None:
    """The account that ``rule`` names, or none; None if credentials are to be looked for.

    Raises:
        UsageError: as ``token_of``.
    """
    if rule is not None and rule.token_env:
        return CloudAccount(rule.token_env, endpoint, _constant("token", token_of(rule, environ)))
    if anonymous or (rule is not None and rule.anonymous):
        return CloudAccount("nobody", endpoint)
    return None


def _first(environ: Mapping[str, str], names: Iterable[str]) -> tuple[str, str]:
    """The first of these variables that is set, with its value."""
    return next(((name, environ[name].strip()) for name in names if environ.get(name, "").strip()), ("", ""))


def _constant(kind: str, secret: str) -> Callable[[], Any]:
    """A provider of one secret that does not expire."""
    for part in (secret, *re.findall(r"(?:^|&)sig=([^&]+)", secret)):
        remember(part)
    return lambda: {kind: secret, "expires_at": None}


def _remembered(provider: Callable[[], Any]) -> Callable[[], Any]:
    """``provider``, no token of which is repeated in a message."""

    def provide() -> Any:
        credential = provider()
        remember(credential["token"])
        return credential

    return provide


def _google_file(environ: Mapping[str, str]) -> tuple[Path | None, str]:
    if named := environ.get(GOOGLE_FILE):
        return Path(named), GOOGLE_FILE
    home = environ.get("CLOUDSDK_CONFIG") or home_of(environ) / ".config" / "gcloud"
    known = Path(home, "application_default_credentials.json")
    return (known, "gcloud's default credentials") if known.is_file() else (None, "this machine's metadata server")


def _check_metadata_server(environ: Mapping[str, str]) -> None:
    """Checks that a metadata server of Google listens: google-auth would wait for 14 seconds."""
    import socket

    named = environ.get("GCE_METADATA_HOST") or environ.get("GCE_METADATA_IP") or "169.254.169.254"
    name, _, port = named.partition(":")
    try:
        socket.create_connection((name, int(port) if port.isdecimal() else 80), PROBE_S).close()
    except OSError as error:
        raise AccessDenied("no Google credentials were found", hint=_GOOGLE_HINT) from error


def _google_tokens(file: Path | None, found_in: str) -> Callable[[], Any]:
    """A provider over google-auth, for what is in ``file``, or this machine's own identity."""
    try:
        import google.auth
        from google.auth import compute_engine
        from google.auth.credentials import with_scopes_if_required
        from google.auth.exceptions import GoogleAuthError
        from google.oauth2 import service_account
        from obstore.auth.google import GoogleCredentialProvider
    except ImportError as error:
        raise MissingExtra(f"gs:// with the credentials of {found_in}", "gcs", "google-auth") from error
    try:
        if file is not None:
            file.open("rb").close()
        with warnings.catch_warnings():
            # It warns of files that somebody else wrote: this one is named by the user, or gcloud's own.
            warnings.simplefilter("ignore", DeprecationWarning)
            # With a scope it would ask another service for the name of the project, which nobody needs.
            found = compute_engine.Credentials() if file is None else google.auth.load_credentials_from_file(file)[0]
        found = with_scopes_if_required(found, [SCOPE])
        if isinstance(found, service_account.Credentials):
            # It signs a token itself, and asks nobody for one.
            found = found.with_always_use_jwt_access(True)
        return _remembered(GoogleCredentialProvider(found))
    except OSError as error:
        raise UsageError(f"{found_in}: {file} cannot be read: {error.strerror}", hint="check the path") from error
    except (GoogleAuthError, AttributeError, RecursionError, ValueError) as error:
        raise UsageError(f"{found_in}: {file} contains no usable credentials", hint=_GOOGLE_HINT) from error


def _azure_tokens() -> Callable[[], Any]:
    """A provider over azure-identity."""
    try:
        from obstore.auth.azure import AzureCredentialProvider
    except ImportError as error:
        raise MissingExtra("az:// with Azure's default credentials", "azure", "azure-identity") from error
    # Without a handler its warnings would go to stderr.
    logging.getLogger("azure").addHandler(logging.NullHandler())
    return _remembered(AzureCredentialProvider())
