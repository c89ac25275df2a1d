"""The operator's secrets that a manifest may use, and the servers that may get them.

The author of a manifest also writes its ``sources`` and its ``policy``. The operator decides by the settings file, the
environment and ``--policy``.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_cli.core.manifest_trust import (
    TOKEN_PREFIX,
    is_covered,
    is_encrypted,
    is_for_manifests,
    is_same_server,
    server_at,
    variable,
)
from lora_cli.errors import Refused, UsageError
from lora_cli.redaction import remember
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.documents.manifest import SourceRule
    from lora_cli.documents.policy import Policy

_WHERE = "in --policy FILE, in the settings, or as LORA_CLI_{}"


@dataclass(frozen=True, slots=True)
class Trust:
    """Variables and profiles that a manifest may name, and servers that it may have the operator's credentials sent to.

    ``endpoints`` are globs (``core.manifest_trust``).
    """

    endpoints: tuple[str, ...] = ()
    token_env: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()


NO_TRUST = Trust()


def trust_of(settings: Settings) -> Trust:
    """The union of what the settings and the operator's policies let a manifest use."""
    operators: list[Settings | Policy] = [settings, *settings.policies]
    return Trust(
        tuple(glob for one in operators for glob in one.trusted_endpoints),
        tuple(name for one in operators for name in one.allow_token_env),
        tuple(name for one in operators for name in one.allow_profiles),
    )


def token_of(rule: "SourceRule | None", environ: Mapping[str, str], trust: Trust = NO_TRUST) -> str:
    """The value of the variable that ``rule`` names, for the server that it names; "" where it names none.

    Raises:
        Refused: a manifest may not read that variable, or everybody on the way could read the token.
        UsageError: the variable is not set, or what is in it cannot be a token.
    """
    if rule is None or rule.token_env is None:
        return ""
    _check_variable(rule.token_env, "token_env", trust)
    if rule.endpoint_url:
        check_encrypted(rule.endpoint_url)
    return secret_in(rule.token_env, "token_env", rule.match, environ, trust)


def secret_in(name: str, key: str, match: str, environ: Mapping[str, str], trust: Trust) -> str:
    """The value of the variable ``name``, which ``key`` of the rule for ``match`` names; raises as ``token_of``."""
    _check_variable(name, key, trust)
    secret = environ.get(name, "").strip()
    if not secret:
        hint = f"set it, or remove {key} from the rule for {match}"
        raise UsageError(f"the manifest uses the variable {name} for a token, but it is not set", hint=hint)
    # The value is not repeated, and never reaches a library that would repeat it in its own error.
    if not re.fullmatch(r"[!-~]{1,4000}", secret):
        raise UsageError(f"the value in {name} is not a valid token", hint="a token is printable ASCII without spaces")
    remember(secret)
    return secret


def _check_variable(name: str, key: str, trust: Trust) -> None:
    """Whether a manifest may read the variable that it names.

    Raises:
        Refused: it is not set for manifests, and the operator did not allow it.
    """
    if is_for_manifests(name):
        return
    try:
        variable(name)
    except ValueError as error:
        raise Refused(f"the manifest's {key}: {error}", hint=f"{key}: {TOKEN_PREFIX}NAME") from error
    if name not in trust.token_env:
        hint = (
            f"rename to {TOKEN_PREFIX}NAME, or allow it: allow_token_env: [{name}] {_WHERE.format('ALLOW_TOKEN_ENV')}"
        )
        raise Refused(f"the manifest may not read the variable {name} for a token", hint=hint)


def check_profile(profile: str, match: str, trust: Trust) -> None:
    """Whether a manifest may use the profile that its rule for ``match`` names.

    Raises:
        Refused: no operator allowed it.
    """
    if profile not in trust.profiles:
        where = _WHERE.format("ALLOW_PROFILES")
        hint = f"allow it: allow_profiles: [{profile}] {where}; or remove profile from the rule for {match}"
        raise Refused(f"the manifest may not use the profile {profile}", hint=hint)


def check_endpoint(rule: "SourceRule", trust: Trust, own: Iterable[str], whose: str) -> None:
    """Whether the operator's credentials may go to the server that the rule names.

    ``own`` are the servers of the operator and of the provider; ``whose`` is what the message calls the credentials.

    Raises:
        Refused: it is none of those, and no operator trusts it.
    """
    endpoint = rule.endpoint_url or ""
    if endpoint and not any(is_same_server(endpoint, one) for one in own):
        raise_unless_trusted(endpoint, trust, f"{whose} are not sent to {{}}, a server set only by the manifest")


def raise_unless_trusted(address: str, trust: Trust, says: str) -> None:
    """Refuses a server that no operator trusts, or without encryption; ``{}`` in ``says`` is its name.

    Raises:
        Refused: that it is.
    """
    check_encrypted(address)
    if not is_covered(trust.endpoints, address):
        server, where = server_at(address), _WHERE.format("TRUSTED_ENDPOINTS")
        hint = f"if it is yours, allow it: trusted_endpoints: [{server}] {where}"
        raise Refused(says.format(server), hint=hint)


def check_encrypted(address: str) -> None:
    """Whether a secret may be sent to a server that a manifest names.

    Raises:
        Refused: everybody on the way could read it.
    """
    if not is_encrypted(address):
        server = server_at(address) or "an unknown address"
        raise Refused(
            f"credentials are not sent to {server} for a manifest: it is another machine, and not encrypted",
            hint="use https://; set your own server without TLS in the environment (AWS_ENDPOINT_URL, …)",
        )
