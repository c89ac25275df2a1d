"""One endpoint of the Hub as its sources ask it: whose token it gets, and what its refusals mean."""

import os
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from lora_cli.core.reference import AdapterRef
from lora_cli.core.trust import is_same_server
from lora_cli.errors import LoraCliError
from lora_cli.settings import Settings
from lora_cli.sources.http import Http, StatusError
from lora_cli.sources.hub_access import Token, explained, find_token
from lora_cli.sources.retries import Retries
from lora_cli.sources.ssrf_guard import bounds_of
from lora_cli.sources.trusted import raise_unless_trusted, token_of, trust_of

if TYPE_CHECKING:
    from lora_cli.documents.manifest import SourceRule
    from lora_cli.sources.xet import XetStorage


class HubClient:
    """The Hub at ``settings.hub_endpoint``, or where a manifest's rule says.

    The token is looked up once, when the first request is made, and sent to the endpoint only. At an endpoint that a
    rule names, nobody is logged in but by the rule's own ``token_env``.
    """

    def __init__(self, settings: Settings, rule: "SourceRule | None") -> None:
        """Opens no connection and reads no token yet."""
        self._rule, self._own_endpoint = rule, settings.hub_endpoint
        self._elsewhere = rule is not None and bool(rule.endpoint_url)
        endpoint = (rule.endpoint_url if rule is not None else None) or settings.hub_endpoint
        self.endpoint = endpoint.rstrip("/")
        self.settings = replace(settings, hub_endpoint=self.endpoint)

    @cached_property
    def _token(self) -> Token:
        if self._rule is not None and self._rule.token_env:
            return Token(token_of(self._rule, os.environ, trust_of(self.settings)), self._rule.token_env)
        return Token() if self._elsewhere else find_token()

    @cached_property
    def http(self) -> Http:
        """How requests are made."""
        return Http(
            self.endpoint,
            self.settings.timeout_s,
            Retries(self.settings.retries),
            token=self._token.value,
            bounds=bounds_of(self.settings),
        )

    @cached_property
    def xet(self) -> "XetStorage":
        """Xet storage, as this endpoint gives access to it.

        Raises:
            Refused: only a manifest names the endpoint, whose links hf_xet would follow anywhere.
        """
        from lora_cli.sources.xet import XetStorage

        if self._elsewhere and not is_same_server(self.endpoint, self._own_endpoint):
            says = "files in Xet storage are not read from {}, a server that only the manifest names"
            raise_unless_trusted(self.endpoint, trust_of(self.settings), says)
        return XetStorage(self.http)

    def explained(self, error: StatusError, ref: AdapterRef, path: str = "") -> LoraCliError:
        """What a refusal means; ``path`` is the file that was read, if any."""
        return explained(error, ref, self._token, self.endpoint, path)
