"""Access to S3: a client of botocore, with the credentials, region and endpoint that it finds."""

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lora_cli import __version__
from lora_cli.errors import AccessDenied, LoraCliError, Unreachable, UsageError
from lora_cli.redaction import remember
from lora_cli.sources.http import checked_endpoint

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule

TRUE = frozenset({"1", "true", "yes", "on", "y", "requester"})
NOBODY = "nobody"
_AMAZON = re.compile(r"https://s3(?:-fips)?(?:\.dualstack)?(?:\.[a-z0-9-]{1,32})?\.amazonaws\.com(?:\.cn)?/?", re.ASCII)
"""The endpoints of S3 itself; other hosts of that domain may be anybody's."""

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_CONFIGURATION = ("AWS_CONFIG_FILE", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "HOME")


@dataclass(frozen=True, slots=True)
class Account:
    """The account of requests, and their server.

    ``client`` is botocore's client of S3, ``found_in`` says where its credentials are from (``NOBODY``: requests are
    anonymous). ``endpoint`` is "" for AWS itself.
    """

    client: Any = field(repr=False)
    found_in: str
    endpoint: str
    requester_pays: bool = False


def find_account(environ: Mapping[str, str], rule: "SourceRule | None" = None) -> Account:
    """The account for a source: that of ``rule``, else the environment's keys, else botocore's whole chain.

    The chain has profiles, SSO, processes, web identities, containers and instances; botocore waits for an instance's
    metadata for two seconds at most.

    Raises:
        AccessDenied: there are no credentials, or they have expired.
        UsageError: there is no such profile, or what AWS_CONFIG_FILE says is wrong.
        Unreachable: who gives out credentials does not answer.
    """
    profile = rule.profile if rule else None
    region = (rule and rule.region) or _first(environ, ("AWS_REGION", "AWS_DEFAULT_REGION"))
    if not re.fullmatch(r"[a-z0-9-]{0,32}", region):
        raise UsageError("AWS_REGION: this is not the name of a region", hint="write one such as eu-west-1")
    skips = (rule and rule.anonymous) or environ.get("AWS_SKIP_SIGNATURE", "").lower() in TRUE
    anonymous = bool(skips) and profile is None
    named = (rule and rule.endpoint_url) or endpoint_in(environ)
    try:
        session = _session(profile)
        found_in = NOBODY if anonymous else _found_in(session, environ, profile)
        client = _client(session, region, named, anonymous=anonymous)
    except botocore_errors() as error:
        raise translate_error(error, profile) from error
    pays = (rule and rule.requester_pays) or environ.get("AWS_REQUEST_PAYER", "").lower() in TRUE
    return Account(client, found_in, named or _elsewhere(client), bool(pays))


def endpoint_in(environ: Mapping[str, str]) -> str:
    """The address of the S3 server that the environment names, "" for AWS itself.

    Raises:
        UsageError: it is no address.
    """
    variable = next((name for name in _ENDPOINTS if environ.get(name)), "")
    return checked_endpoint(environ[variable], variable) if variable else ""


def endpoint_for(environ: Mapping[str, str], rule: "SourceRule | None") -> str:
    """The address of the S3 server that ``find_account`` asks, "" for AWS itself; no credentials are looked for.

    Raises:
        UsageError: it is no address, or there is no such profile.
    """
    named = (rule and rule.endpoint_url) or endpoint_in(environ)
    profile = rule.profile if rule else None
    return named or _configured(profile, tuple(map(os.environ.get, _CONFIGURATION)))


@functools.lru_cache(64)
def _configured(profile: str | None, _: tuple[str | None, ...]) -> str:
    """The address that the configuration has for S3; raises as ``endpoint_for``."""
    try:
        return _elsewhere(_client(_session(profile), "", "", anonymous=True))
    except botocore_errors() as error:
        raise translate_error(error, profile) from error


def _elsewhere(client: Any) -> str:
    """The address that a client asks, "" for AWS itself; raises as ``endpoint_for``."""
    endpoint = str(client.meta.endpoint_url)
    return "" if _AMAZON.fullmatch(endpoint) else checked_endpoint(endpoint, "endpoint_url of the AWS profile")


def _session(profile: str | None) -> Any:
    from botocore.session import Session

    return Session(profile=profile)


def _client(session: Any, region: str, endpoint: str, *, anonymous: bool) -> Any:
    """Botocore's client; it tries nothing again, as we do that."""
    from botocore import UNSIGNED
    from botocore.config import Config

    config = Config(
        retries={"total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent=f"lora-cli/{__version__}",
        **({"signature_version": UNSIGNED} if anonymous else {}),
    )
    return session.create_client("s3", region_name=region or None, endpoint_url=endpoint or None, config=config)


def _found_in(session: Any, environ: Mapping[str, str], profile: str | None) -> str:
    """Finds the credentials, and returns where; raises as botocore does, and ``AccessDenied`` if there are none."""
    key, secret = environ.get("AWS_ACCESS_KEY_ID", ""), environ.get("AWS_SECRET_ACCESS_KEY", "")
    from_environment = profile is None and key and secret
    if from_environment:
        session.set_credentials(key, secret, environ.get("AWS_SESSION_TOKEN") or None)
    if (credentials := session.get_credentials()) is None:
        keys = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        hint = f"set {keys}, or AWS_PROFILE; for a public bucket AWS_SKIP_SIGNATURE=true"
        raise AccessDenied("no AWS credentials were found", hint=hint)
    for value in credentials.get_frozen_credentials():
        remember(value or "")
    if from_environment:
        return "AWS_ACCESS_KEY_ID"
    name = profile or _named_profile()
    return f"the profile {name}" if name else f"the {credentials.method} credentials"


def _named_profile() -> str:
    return _first(os.environ, ("AWS_PROFILE", "AWS_DEFAULT_PROFILE"))


def botocore_errors() -> tuple[type[Exception], ...]:
    """The exceptions that botocore raises: its own errors, and those of a credential process."""
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError, ValueError, KeyError, OSError


def translate_error(error: Exception, profile: str | None = None) -> LoraCliError:
    """Botocore's own words may hold what a credential process printed: only the kind of its error is reported."""
    profile = profile or _named_profile()
    kind, named = type(error).__name__, f"the profile {profile}" if profile else "the default profile"
    if kind == "ProfileNotFound":
        return UsageError(f"there is no AWS profile {profile}", hint="see `aws configure list-profiles`")
    if kind in {"ConfigParseError", "ConfigNotFound", "InvalidConfigError", "InvalidRegionError"}:
        return UsageError(
            f"the AWS configuration of {named} is invalid", hint="check AWS_CONFIG_FILE and ~/.aws/config"
        )
    if "Connect" in kind or "Timeout" in kind or "HTTPClient" in kind:
        return Unreachable(f"the credentials service for {named} does not respond ({kind})", hint="check the network")
    if "SSO" in kind or "Token" in kind:
        login = f"aws sso login --profile {profile}" if profile else "aws sso login"
        return AccessDenied(f"the SSO session of {named} has expired", hint=f"log in with `{login}`")
    return AccessDenied(f"{named} has no credentials ({kind})", hint="check it with `aws sts get-caller-identity`")


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((environ[name] for name in names if environ.get(name)), "")
