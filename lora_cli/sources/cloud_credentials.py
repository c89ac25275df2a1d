"""Accounts of S3, Google Cloud Storage and Azure: found as the tools of these providers find them."""

import functools
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lora_cli.documents.option_values import endpoint as endpoint_value
from lora_cli.errors import AccessDenied, LoraCliError, MissingExtra, Unreachable, UsageError
from lora_cli.redaction import remember
from lora_cli.refs.web_address import host, is_encrypted

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule

Provider = Callable[[], Any]
NOBODY = "nobody"
GOOGLE = "https://storage.googleapis.com"
_SERVERS = {"s3": "AWS_ENDPOINT_URL_S3 AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST", "az": "AZURE_STORAGE_ENDPOINT"}
_AWS_PROFILES = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
_AWS_FILES = (*_AWS_PROFILES, "AWS_CONFIG_FILE", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "HOME")
_AWS_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; if it is public, AWS_SKIP_SIGNATURE=true"
_AWS_ERRORS: tuple[tuple[str, type[LoraCliError], str, str], ...] = (
    ("Config|Profile", UsageError, "is not in the AWS configuration, or invalid", "see `aws configure list-profiles`"),
    ("Connect|Timeout|HTTP", Unreachable, "gets no answer from its credentials service", "try again later"),
    ("SSO|Token", AccessDenied, "has an SSO session that expired", "log in with `aws sso login --profile {name}`"),
    ("", AccessDenied, "has no credentials ({kind})", "check it with `aws sts get-caller-identity`"),
)
"""What is in the name of botocore's error, what is raised, what it says of the profile, and what to try."""

_GOOGLE_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
_GOOGLE_HINT = "run `gcloud auth application-default login`; GOOGLE_SKIP_SIGNATURE=true for a public bucket"
_AZURE_HINT = "set AZURE_STORAGE_ACCOUNT_NAME, or write abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH"
# The first is obstore's and the SDK's name, the other that of the az command.
_AZURE_ACCOUNTS = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
_AZURE_KEYS = ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY")
_CHAINS = {"gs": ("Google", "gcs", "google-auth"), "az": ("Azure", "azure", "azure-identity")}
"""Whose default chain finds credentials, the extra that it needs, and that one's package."""

_ANONYMOUS = {"gs": ("GOOGLE_SKIP_SIGNATURE", "STORAGE_EMULATOR_HOST"), "az": ("AZURE_SKIP_SIGNATURE",)}
_OWN = {"gs": r".+\.googleapis\.com", "az": r".+\.core\.(windows\.net|chinacloudapi\.cn|usgovcloudapi\.net)"}
"""Where a token of the provider's own chain may be sent although a rule names the server."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whose requests are sent: ``found_in`` is where the credentials are from, or ``NOBODY``.

    ``endpoint`` is the address of the server ("" for AWS itself). ``provider`` gives obstore the credentials of this
    moment, ``place`` what else its store is made with, for a bucket and a region ("": the account's own).
    ``region_of`` asks S3 where a bucket is ("": it does not say).
    """

    found_in: str
    endpoint: str
    provider: Provider = field(repr=False)
    place: Callable[[str, str], dict[str, Any]] = field(repr=False)
    region_of: Callable[[str], str] = field(default=lambda _: "", repr=False)
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
    options: dict[str, Any] = {"base_url": endpoint}
    if scheme == "az":
        if not (account := azure_account(location)):
            raise UsageError(f"az://{location}: its storage account is unknown", hint=_AZURE_HINT)
        options = {"account_name": account, "endpoint": endpoint, "use_emulator": False}
    found_in, provider = _token(scheme, location, rule)
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
    account = azure_account(location) if scheme == "az" else ""
    variable, address = _first(_SERVERS[scheme].split())
    if variable and account in {"", azure_account("")}:
        is_host = scheme == "gs" and "://" not in address
        return _checked(f"http://{address}" if is_host else address, variable)
    if scheme == "s3":
        return _configured(rule.profile if rule else None, tuple(map(os.environ.get, _AWS_FILES)))
    return GOOGLE if scheme == "gs" else account and f"https://{account}.blob.core.windows.net"


def _checked(address: str, variable: str) -> str:
    try:
        return endpoint_value(address)
    except ValueError as error:
        raise UsageError(f"{variable}: {error}") from error


def azure_account(location: str) -> str:
    """The storage account of a location, else of the environment, or ""."""
    return location.partition("/")[0].partition("@")[2].partition(".")[0] or _first(_AZURE_ACCOUNTS)[1]


def _aws(endpoint: str, rule: "SourceRule | None") -> Account:
    """As botocore's session finds it: variables, profiles, SSO, processes, web identities, containers, instances."""
    profile = rule.profile if rule else None
    anonymous = (rule and rule.anonymous) or (profile is None and _is_set("AWS_SKIP_SIGNATURE"))
    pays = {"request_payer": True} if rule and rule.requester_pays else {}  # obstore reads AWS_REQUEST_PAYER
    with _session(profile) as session:
        credentials = None if anonymous else session.get_credentials()
        method = credentials and credentials.get_frozen_credentials() and credentials.method
        region = (rule and rule.region) or os.environ.get("AWS_REGION") or session.get_config_variable("region")
        style = (session.get_config_variable("s3") or {}).get("addressing_style")
        fips = "-fips" if session.get_config_variable("use_fips_endpoint") else ""
        stack = ".dualstack" if session.get_config_variable("use_dualstack_endpoint") else ""
        certificates = session.get_config_variable("ca_bundle") or ""
    region = region or "us-east-1"
    if not re.fullmatch("[a-z0-9-]+", region):
        raise UsageError("AWS_REGION: this is not the name of a region", hint="write one such as eu-west-1")
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

    def region_of(bucket: str) -> str:
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError
        from botocore.httpsession import URLLib3Session
        from botocore.utils import get_environ_proxies

        server = session.create_client("s3", region, endpoint_url=endpoint or None).meta.endpoint_url
        address, trusted = f"{server}/{bucket}", certificates or os.environ.get("SSL_CERT_FILE") or True
        try:
            http = URLLib3Session(verify=trusted, proxies=get_environ_proxies(address), timeout=10)
            answer = http.send(AWSRequest("HEAD", address).prepare())
        except BotoCoreError:
            return ""
        return str(answer.headers.get("x-amz-bucket-region", ""))

    name = profile or _first(_AWS_PROFILES)[1]
    owner = f"the profile {name}" if name else f"the {method} credentials"
    found_in = NOBODY if anonymous else "AWS_ACCESS_KEY_ID" if method == "env" else owner
    return Account(found_in, endpoint, _remembered(provide), place, region_of, certificates)


@contextmanager
def _session(profile: str | None, *, asks: bool = True) -> Iterator[Any]:
    """A session of botocore. Of its errors only the kind is reported: they may hold what a credential process said."""
    from botocore.session import Session

    try:
        yield Session(profile=profile, include_builtin_handlers=asks)  # which only matter to requests
    except Exception as error:
        name, kind = profile or _first(_AWS_PROFILES)[1] or "default", type(error).__name__
        _, raised, says, hint = next(row for row in _AWS_ERRORS if re.search(row[0], kind))
        raise raised(f"the profile {name} {says.format(kind=kind)}", hint=hint.format(name=name)) from error


@functools.lru_cache(64)
def _configured(profile: str | None, _: tuple[str | None, ...]) -> str:
    """The address that the configuration has for S3: a profile's ``endpoint_url``, or that of its ``services``."""
    from botocore.configprovider import ConfiguredEndpointProvider

    with _session(profile, asks=False) as session:
        provider = ConfiguredEndpointProvider(session.full_config, session.get_scoped_config(), "s3")
        address = "" if session.get_config_variable("ignore_configured_endpoint_urls") else provider.provide()
    return _checked(address, "endpoint_url of the AWS profile") if address else ""


def _token(scheme: str, location: str, rule: "SourceRule | None") -> tuple[str, Provider]:
    """Where the token for Google or Azure is from, and what gives it: a rule, nobody, a key, else the default chain."""
    if rule is not None and rule.token_env:
        token = rule.token()
        return rule.token_env, lambda: {"token": token, "expires_at": None}
    if (rule is not None and rule.anonymous) or any(map(_is_set, _ANONYMOUS[scheme])):
        return NOBODY, dict
    if scheme == "az" and azure_account(location) == azure_account(""):  # the secrets are for its own account alone
        (key_in, key), (signed_in, signature) = _first(_AZURE_KEYS), _first(("AZURE_STORAGE_SAS_TOKEN",))
        if key or signature:
            secret = {"access_key": key} if key else {"sas_token": signature.removeprefix("?")}
            return key_in or signed_in, lambda: {**secret, "expires_at": None}
    server = (rule is not None and rule.endpoint_url) or ""
    if server and not re.fullmatch(_OWN[scheme], (urlsplit(server).hostname or "").rstrip(".")):
        return NOBODY, dict
    return f"{_CHAINS[scheme][0]}'s default chain", _default_chain(scheme)


def _default_chain(scheme: str) -> Provider:
    """As the provider's own library finds it: an application's or a workload's identity, the machine's, a login."""
    provider, extra, package = _CHAINS[scheme]
    logging.getLogger("azure").addHandler(logging.NullHandler())  # else its warnings would go to stderr
    try:
        if scheme == "az":
            from obstore.auth.azure import AzureCredentialProvider

            return AzureCredentialProvider()
        import google.auth
        from google.auth.credentials import with_scopes_if_required
        from obstore.auth.google import GoogleCredentialProvider
    except ImportError as error:
        raise MissingExtra(f"{scheme}:// with {provider}'s default credentials", extra, package) from error
    try:
        # With a scope it would ask another service for the name of the project, which nobody needs.
        return GoogleCredentialProvider(with_scopes_if_required(google.auth.default()[0], [_GOOGLE_SCOPE]))
    except Exception as error:  # whatever that library makes of a file of the user's
        named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
        reason = f"{named} contains no usable Google credentials" if named else "no Google credentials were found"
        raise AccessDenied(reason, hint=_GOOGLE_HINT) from error


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
