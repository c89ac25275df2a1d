"""The settings file: its keys, and ``SourceRule``, how the operator says that sources are reached."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, create_model

from lora_cli.documents.document import Glob, Model, parse_toml, read_text
from lora_cli.documents.option_values import Kind, endpoint
from lora_cli.errors import UsageError
from lora_cli.redaction import remember

VARIABLE = "[A-Z_][A-Z0-9_]{0,63}"
_SECRET = re.compile("pass|secret|token|key|credential|signature|sas|auth|connection_string", re.IGNORECASE)


def _without_secrets(options: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The options of a file system, below ``path``. A lock and the cache record them, so that none may be a secret."""
    for name, value in options.items():
        if isinstance(value, Mapping | list):
            inside = value if isinstance(value, Mapping) else {str(at): one for at, one in enumerate(value)}
            _without_secrets(inside, *path, name)
        elif name.endswith("_env"):
            if not isinstance(value, str) or not re.fullmatch(VARIABLE, value, re.ASCII):
                hint = f'{name} = "ACME_SECRET"; the secret is its value'
                raise ValueError("this is not the name of an environment variable", hint, *path, name)
        elif (_SECRET.search(name) and not isinstance(value, bool)) or re.search("://[^/]*:[^/]*@", str(value)):
            hint = f'write {name}_env = "NAME", the variable that has the value'
            raise ValueError("a secret must not be in the settings file", hint, *path, name)
    return options


def checked_token(token: str, found_in: str) -> str:
    """``token``, which no message will repeat from now on; ``UsageError`` if it cannot be one."""
    if not re.fullmatch(r"[!-~]{1,4000}", token):
        raise UsageError(f"the value in {found_in} is not a valid token", hint="a token is printable ASCII, no spaces")
    remember(token)
    return token


class SourceRule(Model):
    """How to reach the sources that ``match`` covers. Names of secrets, never values."""

    match: Glob
    """A glob over references, as in a policy's allow_sources; the first rule that matches counts."""
    endpoint_url: Annotated[str, BeforeValidator(endpoint)] | None = None
    """The address of the server, if it is not the provider's own."""
    region: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]{0,31}$")] | None = None
    """The region of a bucket."""
    profile: Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._ -]{0,63}$")] | None = None
    """A profile of ~/.aws/config."""
    token_env: Annotated[str, Field(pattern=f"^{VARIABLE}$")] | None = None
    """The name of the environment variable with the token."""
    anonymous: bool = False
    """Send requests without credentials."""
    requester_pays: bool = False
    """Pay for the requests (S3 requester pays)."""
    storage_options: Annotated[dict[str, Any], AfterValidator(_without_secrets)] = Field(default={})
    """Options of the file system, for fsspec+PROTOCOL://. NAME_env is the variable with the value of NAME."""

    def token(self) -> str:
        """The value of the variable that ``token_env`` names; "" where it names none. Raises as ``secret_in``."""
        return self.secret_in(self.token_env, "token_env") if self.token_env and not self.anonymous else ""

    def secret_in(self, name: str, key: str) -> str:
        """The value of the variable ``name``, which ``key`` names.

        Raises:
            UsageError: the variable is not set, or what is in it cannot be a token.
        """
        if secret := os.environ.get(name, "").strip():
            return checked_token(secret, name)
        hint = f"set it, or remove {key} from the rule for {self.match} in the settings file"
        raise UsageError(f"the variable {name} is not set, which the settings name for a token", hint=hint)


def read_settings(file: Path, kinds: Mapping[str, tuple[Kind, str]]) -> dict[str, Any]:
    """The values by key, parsed, and the rules under ``sources``; ``kinds`` has the kind of each key, and its help.

    Raises:
        UsageError: it is not TOML, or every mistake with its line.
        MachineError: it cannot be read.
    """
    fields: dict[str, Any] = {
        key: (Annotated[Any, BeforeValidator(kind.parse), Field(description=about)], None)
        for key, (kind, about) in kinds.items()
    }
    model = create_model("SettingsFile", __base__=Model, sources=(tuple[SourceRule, ...], ()), **fields)
    read = parse_toml(read_text(file, "settings file"), str(file)).read(model, file.parent)
    return {key: getattr(read, key) for key in read.model_fields_set}
