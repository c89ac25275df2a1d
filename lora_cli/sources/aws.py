"""Who asks S3, and where: keys, region and endpoint, found as the origin's own tools find them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lora_cli.documents.manifest import SourceRule
from lora_cli.errors import AccessDenied, LoraCliError, Unreachable, UsageError
from lora_cli.redaction import remember
from lora_cli.sources.urls import checked_endpoint

if TYPE_CHECKING:
    from lora_cli.sources.trusted import Trust

DEFAULT_REGION = "us-east-1"
TRUE = frozenset({"1", "true", "yes", "on", "y", "requester"})
_AMAZON = re.compile(r"https://s3(?:-fips)?(?:\.dualstack)?(?:\.[a-z0-9-]{1,32})?\.amazonaws\.com(?:\.cn)?/?", re.ASCII)
"""Where S3 itself is; what else is below that domain may be anybody's."""

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


@dataclass(frozen=True, slots=True)
class Keys:
    """What botocore's signer reads of credentials; never shown. ``token`` is a session's, or empty."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str = field(default="", repr=False)


def _kept(access_key: str, secret: str, token: str) -> Keys:
    """Keys that no message repeats."""
    for value in (access_key, secret, token):
        remember(value)
    return Keys(access_key, secret, token)


@dataclass(frozen=True, slots=True)
class Account:
    """Whose requests they are, and where they go.

    ``keys`` gives the keys of this moment (None: requests are anonymous), ``found_in`` says where they are from.
    ``endpoint`` is "" for AWS itself. ``lasting`` keys never change.
    """

    keys: Callable[[], Keys] | None
    found_in: str
    region: str
    endpoint: str
    requester_pays: bool = False
    lasting: bool = True


def find_account(environ: Mapping[str, str], rule: SourceRule | None = None, trust: "Trust | None" = None) -> Account:
    """The account for a source: what ``rule`` says, else the environment's keys, else botocore's whole chain.

    ``trust`` is what the operator lets a rule use of all this (None: nothing).

    botocore is imported only for the last: profiles, SSO, processes, web identities, containers and instances. It
    waits for an instance's metadata for two seconds at most.

    Raises:
        Refused: the rule may not name that profile, or have credentials sent to that server.
        AccessDenied: there are no credentials, or they have expired.
        UsageError: there is no such profile, or what AWS_CONFIG_FILE says is wrong.
        Unreachable: who gives out credentials does not answer.
    """
    said = rule or SourceRule(match="*")
    profile = said.profile
    endpoint = said.endpoint_url or endpoint_in(environ)
    region = said.region or _first(environ, ("AWS_REGION", "AWS_DEFAULT_REGION"))
    if not re.fullmatch(r"[a-z0-9-]{0,32}", region):
        raise UsageError("AWS_REGION: this is not the name of a region", hint="write one such as eu-west-1")
    pays = said.requester_pays or environ.get("AWS_REQUEST_PAYER", "").lower() in TRUE
    anonymous = said.anonymous or environ.get("AWS_SKIP_SIGNATURE", "").lower() in TRUE
    if profile is None and anonymous:
        return Account(None, "nobody", region or DEFAULT_REGION, endpoint, pays)
    if rule is not None:
        _check(rule, environ, trust)
    key, secret = environ.get("AWS_ACCESS_KEY_ID", ""), environ.get("AWS_SECRET_ACCESS_KEY", "")
    if profile is None and key and secret:
        keys = _kept(key, secret, environ.get("AWS_SESSION_TOKEN", ""))
        return Account(lambda: keys, "AWS_ACCESS_KEY_ID", region or DEFAULT_REGION, endpoint, pays)
    chain = _Chain(profile)
    region = region or chain.said("region") or DEFAULT_REGION
    endpoint = endpoint or _profile_endpoint(profile)
    return Account(chain.keys, chain.found_in, region, endpoint, pays, lasting=False)


def _check(rule: SourceRule, environ: Mapping[str, str], trust: "Trust | None") -> None:
    """Whether a manifest may have these credentials used, and sent where it says; raises as ``find_account``."""
    from lora_cli.sources.trusted import NOTHING, check_endpoint, check_profile

    if rule.profile is not None:
        check_profile(rule.profile, rule.match, trust or NOTHING)
    if not _AMAZON.fullmatch(rule.endpoint_url or ""):
        check_endpoint(rule, trust or NOTHING, [endpoint_in(environ)], "AWS credentials")


def endpoint_in(environ: Mapping[str, str]) -> str:
    """The address of the S3 server that the environment names, "" for AWS itself.

    Raises:
        UsageError: it is no address.
    """
    variable = next((name for name in _ENDPOINTS if environ.get(name)), "")
    return checked_endpoint(environ[variable], variable) if variable else ""


def endpoint_for(environ: Mapping[str, str], rule: SourceRule | None) -> str:
    """The address of the S3 server that ``find_account`` asks, "" for AWS itself; no credentials are looked for.

    Raises:
        UsageError: it is no address, or there is no such profile.
    """
    said = rule or SourceRule(match="*")
    named = said.endpoint_url or endpoint_in(environ)
    keys = environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY")
    anonymous = said.anonymous or environ.get("AWS_SKIP_SIGNATURE", "").lower() in TRUE
    if named or (said.profile is None and (keys or anonymous)):
        return named
    return _profile_endpoint(said.profile)


def _profile_endpoint(profile: str | None) -> str:
    """The ``endpoint_url`` of a profile (None: the default one), "" where it has none."""
    from botocore.session import Session

    try:
        named = Session(profile=profile).get_scoped_config().get("endpoint_url")
    except _failures() as error:
        raise _untranslated(error, profile or "") from error
    return checked_endpoint(named, "endpoint_url of the AWS profile") if isinstance(named, str) else ""


class _Chain:
    """botocore's chain of credentials, opened once."""

    def __init__(self, profile: str | None) -> None:
        from botocore.session import Session

        self._profile = profile
        try:
            self._session: Any = Session(profile=profile)
            self._config: Mapping[str, Any] = self._session.get_scoped_config()
            self._credentials = self._session.get_credentials()
            if self._credentials is None:
                raise _no_credentials()
            self.keys()
        except _failures() as error:
            raise _untranslated(error, profile or self._named()) from error
        name = profile or self._named()
        self.found_in = f"the profile {name}" if name else f"the {self._credentials.method} credentials"

    def keys(self) -> Keys:
        """The keys of this moment; those that expire are renewed here."""
        try:
            frozen = self._credentials.get_frozen_credentials()
        except _failures() as error:
            raise _untranslated(error, self._profile or self._named()) from error
        return _kept(frozen.access_key or "", frozen.secret_key or "", frozen.token or "")

    def said(self, name: str) -> str:
        """What the profile has under a name."""
        value = self._config.get(name)
        return value if isinstance(value, str) else ""

    def _named(self) -> str:
        import os

        return os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or ""


def _failures() -> tuple[type[Exception], ...]:
    """What botocore lets out: its own errors, those of its services, and what a credential process makes of it."""
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError, ValueError, KeyError, OSError


def _no_credentials() -> LoraCliError:
    hint = (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket AWS_SKIP_SIGNATURE=true"
    )
    return AccessDenied("no AWS credentials were found", hint=hint)


def _untranslated(error: Exception, profile: str) -> LoraCliError:
    """Botocore's own words may hold what a credential process printed: only the kind of its error is told."""
    kind, named = type(error).__name__, f"the profile {profile}" if profile else "the default profile"
    if kind == "ProfileNotFound":
        return UsageError(f"there is no AWS profile {profile}", hint="see `aws configure list-profiles`")
    if kind in {"ConfigParseError", "ConfigNotFound", "InvalidConfigError"}:
        return UsageError(f"the AWS configuration of {named} is wrong", hint="check AWS_CONFIG_FILE and ~/.aws/config")
    if "Connect" in kind or "Timeout" in kind or "HTTPClient" in kind:
        return Unreachable(f"nobody answers who gives {named} its credentials ({kind})", hint="check the network")
    if "SSO" in kind or "Token" in kind:
        login = f"aws sso login --profile {profile}" if profile else "aws sso login"
        return AccessDenied(f"the SSO session of {named} has expired", hint=f"log in with `{login}`")
    return AccessDenied(f"{named} gives no credentials ({kind})", hint="check it with `aws sts get-caller-identity`")


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((environ[name] for name in names if environ.get(name)), "")
