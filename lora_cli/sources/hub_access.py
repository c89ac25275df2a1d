"""Token and endpoint of the Hub, and the translation of its errors."""

import os
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.core.reference import AdapterRef
from lora_cli.errors import AccessDenied, LoraCliError, NotFound, Unreachable, UsageError
from lora_cli.redaction import remember
from lora_cli.settings import Settings
from lora_cli.sources.http import Http, StatusError, host
from lora_cli.sources.retries import Retries
from lora_cli.sources.ssrf_guard import allows_private
from lora_cli.sources.tokens import token_of

if TYPE_CHECKING:
    from lora_cli.documents.source_rules import SourceRule


@dataclass(frozen=True, slots=True)
class Token:
    """A token, empty when there is none, and where it was found, for messages."""

    value: str = field(default="", repr=False)
    found_in: str = ""


def find_token() -> Token:
    """The token of this user as ``huggingface_hub`` finds it.

    Raises:
        UsageError: what was found cannot be a token.
        AccessDenied: ``HF_OIDC_RESOURCE`` is set, and no token was given for it.
    """
    from huggingface_hub import constants

    named = ("HF_OIDC_RESOURCE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    found_in = next((name for name in named if os.environ.get(name, "").strip()), constants.HF_TOKEN_PATH)
    is_there = found_in in named or (Path(found_in).is_file() and os.access(found_in, os.R_OK))
    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN or not is_there:
        return Token()
    return _checked(_from_library(), found_in)


def _from_library() -> str:
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError, OIDCError

    # HfHubHTTPError is an error of httpx, since 2.0 of httpx2.
    failures: tuple[type[Exception], ...] = (OIDCError, *HfHubHTTPError.__bases__, OSError, ValueError)
    try:
        return get_token() or ""
    except failures as error:
        raise AccessDenied(
            f"cannot get a Hub token ({type(error).__name__})",
            hint="check HF_OIDC_RESOURCE and HF_OIDC_ID_TOKEN, or set HF_TOKEN",
        ) from error


def _checked(token: str, found_in: str) -> Token:
    # The value is not repeated, and never reaches a library that would repeat it in its own error.
    if token and not re.fullmatch(r"[!-~]{1,4000}", token):
        raise UsageError(
            f"the value in {found_in} is not a valid token", hint="a token is printable ASCII without spaces: hf_…"
        )
    remember(token)
    return Token(token, found_in if token else "")


def path_hint(ref: AdapterRef) -> str:
    """The beginning of a hint where a reference may have been meant as a path: its first folder is on this machine."""
    is_folder = Path(ref.location.partition("/")[0]).is_dir()
    return f"if you mean a path: there is no {ref.location} in this folder; " if is_folder else ""


def translate_error(error: StatusError, ref: AdapterRef, token: Token, endpoint: str, path: str = "") -> LoraCliError:
    """The Hub's refusal in words: each case its own message and hint. ``path`` is the file that was read, if any.

    The Hub's headers decide (``X-Error-Code``, ``X-Error-Message``); their meaning is that of
    ``huggingface_hub.utils.hf_raise_for_status``.
    """
    message = error.message.replace(token.value, "***") if token.value else error.message
    if error.code == "GatedRepo":
        return _gated(ref, token, endpoint)
    if error.code == "RevisionNotFound":
        see = f"see {endpoint}/{ref.location}/tree/main for its branches and commits"
        return NotFound(f"{ref}: {ref.location} has no branch, tag or commit {ref.revision or 'main'!r}", hint=see)
    if error.code == "EntryNotFound":
        missing = f"file {path}" if path else f"folder {ref.subfolder}"
        return NotFound(f"{ref}: there is no {missing}", hint=f"see {endpoint}/{ref.location} for its contents")
    if token.value and (message.startswith("Invalid credentials") or (error.status == 401 and not error.code)):
        hint = "renew it with `hf auth login`, or unset it: a public repository needs no token"
        return AccessDenied(f"{ref}: {host(error.url)} does not accept the token in {token.found_in}", hint=hint)
    if error.code == "RepoNotFound" or error.status == 401:
        return _missing(ref, token)
    return _other(error, ref, message)


def _gated(ref: AdapterRef, token: Token, endpoint: str) -> LoraCliError:
    page = f"{endpoint}/{ref.location}"
    if not token.value:
        hint = f"accept its terms at {page}, then set HF_TOKEN or run `hf auth login`"
        return AccessDenied(f"{ref} is gated: request access first", hint=hint)
    denied = f"{ref} is gated, and the account of the token in {token.found_in} has no access"
    return AccessDenied(denied, hint=f"request access at {page}, or use a token that can read gated repositories")


def _missing(ref: AdapterRef, token: Token) -> LoraCliError:
    if not token.value:
        hint = f"{path_hint(ref)}check the spelling; if it is private, set HF_TOKEN or run `hf auth login`"
        return AccessDenied(f"{ref}: there is no repository {ref.location}, or it is private", hint=hint)
    hidden = f"{ref}: there is no repository {ref.location}, or it is private and the token in {token.found_in} "
    hint = f"{path_hint(ref)}check the spelling, and which repositories the token can read"
    return NotFound(hidden + "cannot read it", hint=hint)


def _other(error: StatusError, ref: AdapterRef, message: str) -> LoraCliError:
    server, detail = host(error.url), f": {message}" if message else ""
    if "disabled" in message:
        return AccessDenied(f"{ref}: {server} disabled it{detail}", hint="ask its owner, or the Hub's support")
    if error.status in (403, 451):
        hint = "check the permissions of the token, and whether a proxy blocks it"
        return AccessDenied(f"{ref}: {server} denies access ({error.status}){detail}", hint=hint)
    if error.status in (404, 410):
        hint = "check the spelling, and HF_ENDPOINT"
        return NotFound(f"{ref}: not found on {server} ({error.status}){detail}", hint=hint)
    return Unreachable(f"{ref}: {server} answered {error.status}{detail}", hint="check HF_ENDPOINT, or try again later")


class HubClient:
    """The Hub at ``settings.hub_endpoint``, or at the endpoint of a rule.

    The token is looked up once, when the first request is made, and sent to the endpoint only. At an endpoint that a
    rule names, only the rule's own ``token_env`` is used.
    """

    def __init__(self, settings: Settings, rule: "SourceRule | None") -> None:
        """Opens no connection and reads no token yet."""
        self._rule = rule
        self._elsewhere = rule is not None and bool(rule.endpoint_url)
        endpoint = (rule.endpoint_url if rule is not None else None) or settings.hub_endpoint
        self.endpoint = endpoint.rstrip("/")
        self.settings = replace(settings, hub_endpoint=self.endpoint)

    @cached_property
    def _token(self) -> Token:
        if self._rule is not None and self._rule.token_env:
            return Token(token_of(self._rule, os.environ), self._rule.token_env)
        return Token() if self._elsewhere else find_token()

    @cached_property
    def http(self) -> Http:
        """The HTTP client for its endpoint."""
        return Http(
            self.endpoint,
            self.settings.timeout_s,
            Retries(self.settings.retries),
            token=self._token.value,
            private=allows_private(self.settings),
        )

    def translate_error(self, error: StatusError, ref: AdapterRef, path: str = "") -> LoraCliError:
        """Translates a refusal; ``path`` is the file that was read, if any."""
        return translate_error(error, ref, self._token, self.endpoint, path)
