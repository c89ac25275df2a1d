"""Accounts of S3, Google Cloud Storage and Azure: found as the tools of these providers find them."""

import functools
import logging
import os
import re
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lora_cli.core.web_address import is_encrypted
from lora_cli.errors import AccessDenied, LoraCliError, MissingExtra, Unreachable, UsageError
from lora_cli.redaction import remember
from lora_cli.settings import home_of
from lora_cli.sources.http import checked_endpoint, host
from lora_cli.sources.tokens import token_of

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule

Provider = Callable[[], Any]
NOBODY = "nobody"
GOOGLE = "https://storage.googleapis.com"
_SERVERS = {"s3": "AWS_ENDPOINT_URL_S3 AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST", "az": "AZURE_STORAGE_ENDPOINT"}
_AWS_PROFILES = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
_AWS_FILES = (*_AWS_PROFILES, "AWS_CONFIG_FILE", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "HOME")
_AWS_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; if public AWS_SKIP_SIGNATURE=true"
_AWS_ERRORS: tuple[tuple[str, type[LoraCliError], str, str], ...] = (
    ("ProfileNotFound", UsageError, "there is no AWS profile {name}", "see `aws configure list-profiles`"),
    ("Config|Region", UsageError, "the AWS configuration of {of} is invalid", "check AWS_CONFIG_FILE, ~/.aws/config"),
    ("Connect|Timeout|HTTP", Unreachable, "the credentials service for {of} does not respond", "try again later"),
    ("SSO|Token", AccessDenied, "the SSO session of {of} has expired", "log in with `aws sso login --profile {name}`"),
    ("", AccessDenied, "{of} has no credentials ({kind})", "check it with `aws sts get-caller-identity`"),
)
"""What is in the name of botocore's error, what is raised, what it says and what to try."""

_GOOGLE_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
_GOOGLE_HINT = "run `gcloud auth application-default login`; GOOGLE_SKIP_SIGNATURE=true for a public bucket"
_AZURE_HINT = "set AZURE_STORAGE_ACCOUNT_NAME, or write abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH"
# The first is obstore's and the SDK's name, the other that of the az command.
_AZURE_ACCOUNTS = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
_AZURE_KEYS = ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY")
_OWN = {"gs": r".+\.googleapis\.com", "az": r".+\.core\.(windows\.net|chinacloudapi\.cn|usgovcloudapi\.net)"}
"""Where a token of the provider's own chain may be sent although a rule names the server."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whose requests are sent: ``found_in`` is where the credentials are from, or ``NOBODY``.

    ``endpoint`` is the address of the server ("" for AWS itself). ``provider`` gives obstore the credentials of this
    moment, ``place`` what else its store is made with, for a bucket and a region ("": the account's own).
    """

    found_in: str
    endpoint: str
    provider: Provider = field(repr=False)
    place: Callable[[str, str], dict[str, Any]] = field(repr=False)
    certificates: str = ""

    @property
    def server(self) -> str:
        """What messages call the server."""
        return {"": "S3", GOOGLE: "Google Cloud Storage"}.get(self.endpoint) or host(self.endpoint)


def find_account(scheme: str, location: str, rule: "SourceRule | None" = None) -> Account:
    """The account for the bucket of ``location``: that of ``rule``, else of the environment, else the provider's chain.

    Raises ``LoraCliError`` if there are no credentials, they have expired, or what the user set cannot be used.
    """
    endpoint = endpoint_of_account(scheme, location, rule)
    if scheme == "s3":
        return _aws(endpoint, rule)
    options: dict[str, Any]
    if scheme == "gs":
        options, (found_in, provider) = {"base_url": endpoint}, _google(rule)
    else:
        options = {"account_name": azure_account(location), "endpoint": endpoint, "use_emulator": False}
        found_in, provider = _azure(location, rule)
    # A key only signs; a token or a shared access signature is sent as it is.
    if found_in not in {NOBODY, *_AZURE_KEYS} and not is_encrypted(endpoint):
        reason = f"{host(endpoint)}: the credentials from {found_in} are not sent without encryption"
        raise AccessDenied(reason, hint="use its https:// address, or set anonymous = true in its [[sources]]")
    return Account(found_in, endpoint, _remembered(provider), lambda _bucket, _region: options)


def endpoint_of_account(scheme: str, location: str, rule: "SourceRule | None" = None) -> str:
    """The address that ``find_account`` has ("": AWS itself, or no account of Azure), without credentials.

    Raises ``UsageError`` if it is no address, or there is no such profile.
    """
    if rule is not None and rule.endpoint_url:
        return rule.endpoint_url.rstrip("/")
    variable, address = _first(_SERVERS[scheme].split())
    if variable and (scheme != "az" or azure_account(location) == azure_account("")):
        is_host = scheme == "gs" and "://" not in address
        return checked_endpoint(f"http://{address}" if is_host else address, variable)
    if scheme == "s3":
        return _configured(rule.profile if rule else None, tuple(map(os.environ.get, _AWS_FILES)))
    account = azure_account(location) if scheme == "az" else ""
    return GOOGLE if scheme == "gs" else account and f"https://{account}.blob.core.windows.net"


def azure_account(location: str) -> str:
    """The storage account of a location, else of the environment, or ""; raises ``UsageError`` if it cannot be one."""
    if named := location.partition("/")[0].partition("@")[2]:
        return named.partition(".")[0]
    variable, account = _first(_AZURE_ACCOUNTS)
    if re.fullmatch(r"[a-z0-9]*", account, re.ASCII):
        return account
    raise UsageError(f"{variable}: this is not the name of a storage account", hint="write only the account name")


def _aws(endpoint: str, rule: "SourceRule | None") -> Account:
    """As botocore's session finds it: variables, profiles, SSO, processes, web identities, containers, instances."""
    profile = rule.profile if rule else None
    region = (rule and rule.region) or _first(("AWS_REGION", "AWS_DEFAULT_REGION"))[1]
    if not re.fullmatch(r"[a-z0-9-]*", region):
        raise UsageError("AWS_REGION: this is not the name of a region", hint="write one such as eu-west-1")
    anonymous = (rule and rule.anonymous) or (profile is None and _is_set("AWS_SKIP_SIGNATURE"))
    pays = {"request_payer": True} if (rule and rule.requester_pays) or _is_set("AWS_REQUEST_PAYER") else {}
    with _session(profile) as session:
        credentials = None if anonymous else session.get_credentials()
        method = credentials and credentials.get_frozen_credentials() and credentials.method
        region = region or session.get_config_variable("region") or "us-east-1"
        style = (session.get_config_variable("s3") or {}).get("addressing_style")
        fips = "-fips" if session.get_config_variable("use_fips_endpoint") else ""
        stack = ".dualstack" if session.get_config_variable("use_dualstack_endpoint") else ""
        certificates = session.get_config_variable("ca_bundle") or ""
    if not method and not anonymous:
        raise AccessDenied("no AWS credentials were found", hint=_AWS_HINT)

    def provide() -> Any:
        key, secret, token = credentials.get_frozen_credentials()[:3] if credentials else ("", "", "")
        until = datetime.now(UTC) + timedelta(minutes=10)  # botocore renews keys earlier than that before they expire
        return {"access_key_id": key, "secret_access_key": secret, "token": token, "expires_at": until}

    def place(bucket: str, found: str) -> dict[str, Any]:
        domain = "amazonaws.com.cn" if (found or region).startswith("cn-") else "amazonaws.com"
        address = endpoint or f"https://s3{fips}{stack}.{found or region}.{domain}"
        is_label = re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", bucket, re.ASCII) is not None
        virtual = style == "virtual" or (style != "path" and not endpoint and is_label)
        address = address.replace("://", f"://{bucket}.", 1) if virtual else address
        return {"endpoint": address, "region": found or region, "virtual_hosted_style_request": virtual, **pays}

    name = profile or _first(_AWS_PROFILES)[1]
    owner = f"the profile {name}" if name else f"the {method} credentials"
    found_in = NOBODY if anonymous else "AWS_ACCESS_KEY_ID" if method in {"env", "explicit"} else owner
    return Account(found_in, endpoint, _remembered(provide), place, certificates)


@contextmanager
def _session(profile: str | None) -> Iterator[Any]:
    """A session of botocore. Of its errors only the kind is reported: they may hold what a credential process said."""
    from botocore.session import Session

    try:
        yield Session(profile=profile)
    except Exception as error:
        name, kind = profile or _first(_AWS_PROFILES)[1] or "default", type(error).__name__
        _, raised, says, hint = next(row for row in _AWS_ERRORS if re.search(row[0], kind))
        words = {"name": name, "of": f"the profile {name}", "kind": kind}
        raise raised(says.format(**words), hint=hint.format(**words)) from error


@functools.lru_cache(64)
def _configured(profile: str | None, _: tuple[str | None, ...]) -> str:
    """The address that the configuration has for S3: a profile's ``endpoint_url``, or that of its ``services``."""
    from botocore.configprovider import ConfiguredEndpointProvider

    with _session(profile) as session:
        provider = ConfiguredEndpointProvider(session.full_config, session.get_scoped_config(), "s3")
        address = "" if session.get_config_variable("ignore_configured_endpoint_urls") else provider.provide()
    return checked_endpoint(address, "endpoint_url of the AWS profile") if address else ""


def _google(rule: "SourceRule | None") -> tuple[str, Provider]:
    """As Google's libraries find it: a file, gcloud's own, else the metadata server. An emulator needs none."""
    if found := _from_rule(rule, "GOOGLE_SKIP_SIGNATURE", "STORAGE_EMULATOR_HOST"):
        return found
    if _is_foreign("gs", rule):
        return NOBODY, dict
    home, named = os.environ.get("CLOUDSDK_CONFIG"), os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    own = Path(home or home_of(os.environ) / ".config" / "gcloud", "application_default_credentials.json")
    file = named or (str(own) if own.is_file() else "")
    if not file:
        name, _, port = (os.environ.get("GCE_METADATA_HOST") or "169.254.169.254").partition(":")
        try:  # google-auth would wait for 14 seconds
            socket.create_connection((name, int(port or 80)), 2).close()
        except (OSError, ValueError) as error:
            raise AccessDenied("no Google credentials were found", hint=_GOOGLE_HINT) from error
    try:
        import google.auth
        from google.auth import compute_engine
        from google.auth.credentials import with_scopes_if_required
        from obstore.auth.google import GoogleCredentialProvider
    except ImportError as error:
        raise MissingExtra("gs:// with Google's default credentials", "gcs", "google-auth") from error
    try:
        # With a scope it would ask another service for the name of the project, which nobody needs.
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # the file is the user's own
            token = google.auth.load_credentials_from_file(file)[0] if file else compute_engine.Credentials()
        provider = GoogleCredentialProvider(with_scopes_if_required(token, [_GOOGLE_SCOPE]))
    except (google.auth.exceptions.GoogleAuthError, AttributeError, OSError, RecursionError, ValueError) as error:
        raise UsageError(f"{file} contains no usable Google credentials", hint=_GOOGLE_HINT) from error
    return file or "this machine's metadata server", provider


def _azure(location: str, rule: "SourceRule | None") -> tuple[str, Provider]:
    """The environment's key or signature, for its own account alone, else azure-identity's default chain."""
    if not (account := azure_account(location)):
        raise UsageError(f"az://{location}: its storage account is unknown", hint=_AZURE_HINT)
    if found := _from_rule(rule, "AZURE_SKIP_SIGNATURE"):
        return found
    (key_in, key), (signed_in, signature) = _first(_AZURE_KEYS), _first(("AZURE_STORAGE_SAS_TOKEN",))
    if (key or signature) and account == azure_account(""):
        secret = {"access_key": key} if key else {"sas_token": signature.removeprefix("?")}
        return key_in or signed_in, lambda: {**secret, "expires_at": None}
    if _is_foreign("az", rule):
        return NOBODY, dict
    try:
        from obstore.auth.azure import AzureCredentialProvider
    except ImportError as error:
        raise MissingExtra("az:// with Azure's default credentials", "azure", "azure-identity") from error
    logging.getLogger("azure").addHandler(logging.NullHandler())  # else its warnings would go to stderr
    return "Azure's default credentials", AzureCredentialProvider()


def _from_rule(rule: "SourceRule | None", *anonymous: str) -> tuple[str, Provider] | None:
    """The token of ``rule`` and where it is from, or nobody, if the rule or a variable asks for it; else None."""
    if rule is not None and rule.token_env:
        token = token_of(rule, os.environ)
        return rule.token_env, lambda: {"token": token, "expires_at": None}
    return (NOBODY, dict) if (rule is not None and rule.anonymous) or any(map(_is_set, anonymous)) else None


def _is_foreign(scheme: str, rule: "SourceRule | None") -> bool:
    """Whether ``rule`` names a server that is not the provider's, and so gets none of the provider's tokens."""
    server = (rule is not None and rule.endpoint_url) or ""
    return server != "" and not re.fullmatch(_OWN[scheme], (urlsplit(server).hostname or "").rstrip("."))


def _remembered(provider: Provider) -> Provider:
    """``provider``, none of whose secrets is repeated in a message."""

    def provide() -> Any:
        credential = provider()
        for value in credential.values():
            remember(str(value))
        return credential

    return provide


def _first(names: Iterable[str]) -> tuple[str, str]:
    """The first of these variables that is set, with its value."""
    return next(((name, os.environ[name].strip()) for name in names if os.environ.get(name, "").strip()), ("", ""))


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() not in {"", "0", "false", "no", "off"}
