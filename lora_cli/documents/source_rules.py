"""``SourceRule``: how the operator's settings file says that sources are reached."""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

from lora_cli.documents.document import Model, mistake
from lora_cli.documents.field_types import Glob, Maybe, text
from lora_cli.errors import UsageError
from lora_cli.redaction import remember

VARIABLE = "[A-Z_][A-Z0-9_]{0,63}"

_EndpointUrl = Annotated[
    str,
    text(
        r"https?://[^\s/?#@]+(/[^\s?#@]*)?",
        "an address without user, query or fragment: https://HOST[/PATH]",
        "https://minio.example.com; set profile or token_env for credentials",
        "secret",
    ),
]
_Region = Annotated[str, text("[a-z0-9][a-z0-9-]{0,31}", "the name of a region", 'region = "eu-west-1"', "secret")]
_Profile = Annotated[
    str,
    text("[A-Za-z0-9][A-Za-z0-9._ -]{0,63}", "the name of a profile", "its name in ~/.aws/config, not a key", "secret"),
]
_TokenEnv = Annotated[
    str,
    text(VARIABLE, "the name of an environment variable", 'token_env = "ACME_TOKEN"; the token is its value', "secret"),
]
_SECRET = re.compile("pass|secret|token|key|credential|signature|sas|auth|connection_string", re.IGNORECASE)


def _without_secrets(options: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The options of a file system. A lock and the cache record them, so that none may be a secret."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            _without_secrets(value, *path, name)
        elif name.endswith("_env"):
            if not isinstance(value, str) or not re.fullmatch(VARIABLE, value, re.ASCII):
                hint = f'{name} = "ACME_SECRET"; the secret is its value'
                raise mistake("this is not the name of an environment variable", hint, *path, name)
        elif _SECRET.search(name) and not isinstance(value, bool):
            hint = f'write {name}_env = "NAME", the variable that has the value'
            raise mistake("a secret must not be in the settings file", hint, *path, name)
    return options


def checked_token(token: str, found_in: str) -> str:
    """``token``, which no message will repeat from now on; ``UsageError`` if it cannot be one."""
    if not re.fullmatch(r"[!-~]{1,4000}", token):
        raise UsageError(
            f"the value in {found_in} is not a valid token", hint="a token is printable ASCII without spaces"
        )
    remember(token)
    return token


class SourceRule(Model):
    """How to reach the sources that ``match`` covers. Names of secrets, never values."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"required": ["anonymous"], "properties": {"anonymous": {"const": True}}},
            "then": {"properties": {"profile": False, "token_env": False}},
        }
    )

    match: Glob
    """A glob over references, as in a policy's allow_sources; the first rule that matches counts."""
    endpoint_url: Maybe[_EndpointUrl] = None
    """The address of the server, if it is not the provider's own."""
    region: Maybe[_Region] = None
    """The region of a bucket."""
    profile: Maybe[_Profile] = None
    """A profile of ~/.aws/config."""
    token_env: Maybe[_TokenEnv] = None
    """The environment variable with the token."""
    anonymous: bool = False
    """Send requests without credentials."""
    requester_pays: bool = False
    """Pay for the requests (S3 requester pays)."""
    storage_options: Annotated[
        Mapping[str, Any], AfterValidator(_without_secrets), WithJsonSchema({"type": "object"})
    ] = Field(default={})
    """Options of the file system, for fsspec+PROTOCOL://. NAME_env is the variable with the value of NAME."""

    def token(self) -> str:
        """The value of the variable that ``token_env`` names; "" where it names none. Raises as ``secret``."""
        return self.secret(self.token_env, "token_env") if self.token_env else ""

    def secret(self, name: str, key: str) -> str:
        """The value of the variable ``name``, which ``key`` names.

        Raises:
            UsageError: the variable is not set, or what is in it cannot be a token.
        """
        if secret := os.environ.get(name, "").strip():
            return checked_token(secret, name)
        hint = f"set it, or remove {key} from the rule for {self.match} in the settings file"
        raise UsageError(f"the variable {name} is not set, which the settings name for a token", hint=hint)

    @model_validator(mode="after")
    def _anonymous_has_no_secret(self) -> "SourceRule":
        secret = next((key for key in ("profile", "token_env") if getattr(self, key) is not None), None)
        if self.anonymous and secret:
            raise mistake(f"anonymous and {secret} cannot be used together", "remove one of them")
        return self
