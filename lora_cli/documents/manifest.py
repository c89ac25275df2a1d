"""``AdapterSet``: which adapters, for which base, under which policy; and the YAML that says so."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema, field_validator, model_validator

from lora_cli.core.finding import ENGINE_NAMES
from lora_cli.core.globs import matches
from lora_cli.core.manifest_trust import PROFILE, VARIABLE
from lora_cli.core.reference import LATEST_FOLDER, AdapterRef, training_run
from lora_cli.core.request import Request, Selection
from lora_cli.documents.document import (
    Document,
    Head,
    Mistake,
    Model,
    kind_of,
    mappings,
    mistake,
    parse_document,
    repeats,
)
from lora_cli.documents.field_types import (
    MOST_GLOBS,
    Context,
    File,
    Glob,
    Maybe,
    Name,
    Reference,
    Several,
    Sha256,
    Version,
    choice,
    reference_of,
    text,
    whole,
)
from lora_cli.documents.policy import ManifestPolicy, Policy, policy_of, repeated

Count = Annotated[int, whole(1, 100_000)]


class EngineSpec(Model):
    """The engine that the set is for, and its limits."""

    name: Annotated[str, choice(ENGINE_NAMES, "the name of an engine")]
    """The name of the engine, as in lora-cli engines."""
    version: Maybe[Version] = None
    """The version that adapters are validated for (default: the newest known version)."""
    max_lora_rank: Maybe[Count] = None
    """The engine's --max-lora-rank."""
    max_loras: Maybe[Count] = None
    """Maximum number of adapters in one batch: the slots of warm."""
    max_cpu_loras: Maybe[Count] = None
    """Maximum number of adapters in memory."""

    @property
    def wanted(self) -> str:
        """NAME or NAME@VERSION."""
        return f"{self.name}@{self.version}" if self.version else self.name

    @field_validator("max_cpu_loras")
    @classmethod
    def _at_least_max_loras(cls, value: int | None, info: ValidationInfo) -> int | None:
        slots = info.data.get("max_loras")
        if value and slots and value < slots:
            raise mistake(f"{value} is less than max_loras, which is {slots}", f"max_cpu_loras: {slots}")
        return value


_EndpointUrl = Annotated[
    str,
    text(
        r"https?://[^\s/?#@]+(/[^\s?#@]*)?",
        "an address without user, query or fragment: https://HOST[/PATH]",
        "https://minio.example.com; set profile or token_env for credentials",
        "secret",
    ),
]
_Region = Annotated[str, text("[a-z0-9][a-z0-9-]{0,31}", "the name of a region", "region: eu-west-1", "secret")]
_Profile = Annotated[str, text(PROFILE, "the name of a profile", "its name in ~/.aws/config, not a key", "secret")]
_TokenEnv = Annotated[
    str,
    text(
        VARIABLE,
        "the name of an environment variable",
        "token_env: LORA_CLI_TOKEN_ACME; the token is its value",
        "secret",
    ),
]


_SECRET_OPTION = re.compile("pass|secret|token|key|credential|signature|sas|auth|connection_string", re.IGNORECASE)
MOST_OPTIONS, LONGEST_OPTION = 64, 1024


def _without_secrets(options: Mapping[str, Any], path: tuple[str, ...] = ()) -> Mapping[str, Any]:
    """The options of a file system; a mapping among them may hold mappings of values, and none a secret."""
    if len(options) > MOST_OPTIONS or len(path) > 2:
        raise mistake(f"more than {MOST_OPTIONS} options, or nested too deeply", "use fewer", *path)
    for name, value in options.items():
        here = (*path, name)
        if re.search("prox(y|ies)", name, re.IGNORECASE):
            raise mistake("a manifest cannot send requests to another server", f"remove {name}", *here)
        if isinstance(value, Mapping):
            _without_secrets(value, here)
        elif isinstance(value, bool):
            if not value and re.search("verify|ssl|https", name):
                raise mistake("a manifest cannot turn off encryption", f"remove {name}", *here)
        elif name.endswith("_env"):
            if not isinstance(value, str) or not re.fullmatch(VARIABLE, value, re.ASCII):
                raise mistake("this is not the name of an environment variable", f"{name}: LORA_CLI_TOKEN_ACME", *here)
        elif _SECRET_OPTION.search(name):
            hint = f"use {name}_env: LORA_CLI_TOKEN_NAME, the variable that has the value"
            raise mistake("a manifest must not contain secrets", hint, *here)
        elif not isinstance(value, int | str) or len(str(value)) > LONGEST_OPTION:
            raise mistake(
                f"this is {kind_of(value)}, but must be a string, a number, a boolean or a mapping", "", *here
            )
    return options


StorageOptions = Annotated[
    Mapping[str, Any],
    AfterValidator(_without_secrets),
    WithJsonSchema({"type": "object", "maxProperties": MOST_OPTIONS}),
]


class SourceRule(Model):
    """How to reach the sources that ``match`` covers. Names of secrets, never values.

    The operator decides which ``profile`` and ``token_env`` a manifest may use (``sources.operator_trust``).
    """

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"required": ["anonymous"], "properties": {"anonymous": {"const": True}}},
            "then": {"properties": {"profile": False, "token_env": False}},
        }
    )

    match: Glob
    """A glob over references, as in allow_sources; the first rule that matches counts."""
    endpoint_url: Maybe[_EndpointUrl] = None
    """The address of the store, if it is not the provider's own. The operator's own credentials are sent there only
    if trusted_endpoints lists it.
    """
    region: Maybe[_Region] = None
    """The region of a bucket."""
    profile: Maybe[_Profile] = None
    """A profile of the cloud's own credentials file, one of the operator's allow_profiles."""
    token_env: Maybe[_TokenEnv] = None
    """The environment variable with the token: LORA_CLI_TOKEN_<NAME>, or one of the operator's allow_token_env."""
    anonymous: bool = False
    """Send requests without credentials."""
    requester_pays: bool = False
    """Pay for the requests (S3 requester pays)."""
    storage_options: StorageOptions = Field(default={})
    """Options of the file system, for sources read by fsspec (fsspec+s3://). NAME_env is the variable with the
    value of NAME. The operator's trusted_endpoints must list the server, and each address in the options.
    """

    @model_validator(mode="after")
    def _anonymous_has_no_secret(self) -> "SourceRule":
        secret = next((key for key in ("profile", "token_env") if getattr(self, key) is not None), None)
        if self.anonymous and secret:
            raise mistake(f"anonymous and {secret} cannot be used together", "remove one of them")
        return self


@dataclass(frozen=True, slots=True)
class AdapterSet:
    """A manifest, parsed. ``base`` is None when it names none, ``base_written`` how the manifest has it.

    ``file`` is what errors call it.
    """

    file: str
    base: AdapterRef | None
    base_written: str
    engine: EngineSpec | None
    policy: Policy | None
    sources: tuple[SourceRule, ...]
    adapters: tuple[Request, ...]


class ManifestAdapter(Model):
    """One adapter of the set, as written in the file."""

    instead: ClassVar = {
        "revision": "put it in the source: hf://ORG/NAME@REVISION",
        "subfolder": "put it in the source: hf://ORG/NAME/SUBFOLDER",
        "checkpoint": f"put it in the source: hf://ORG/RUN/checkpoint-100, or {LATEST_FOLDER}",
        **dict.fromkeys(("path", "url", "repo", "repo_id", "lora_path"), "source: a path or a reference"),
    }

    name: Name
    """The name of the adapter, also in requests to an engine; valid as the name of a folder."""
    source: Reference
    """A path or a reference. The last folder may be checkpoint-latest: the latest checkpoint of a training run."""
    sha256: Maybe[Sha256] = None
    """The required snapshot digest."""
    signature: Maybe[File] = None
    """A file with its signature, if the source has no model.sig of its own."""
    pinned: bool = False
    """Never evicted from the GPU tier."""


class ManifestFile(Head):
    """Which LoRA adapters, for which base, under which policy."""

    kind: Literal["AdapterSet"]
    """The kind of this file."""
    base: Maybe[Reference] = None
    engine: Maybe[EngineSpec] = None
    """The engine that the set is for, and its limits."""
    policy: Maybe[ManifestPolicy] = None
    """The rules that adapters must pass, in addition to the operator's policy."""
    sources: Annotated[Several[SourceRule], Field(max_length=MOST_GLOBS)] = ()
    """How to reach sources: names of secrets, never values."""
    adapters: Annotated[Several[ManifestAdapter], Field(min_length=1)]
    """Names are unique."""


def load_manifest(text: str, where: str, *, is_path: Callable[[str], bool], base_dir: Path | None = None) -> AdapterSet:
    """The adapter set in ``text``; ``where`` is what errors call the file.

    ``is_path`` says whether a reference, as it is written, exists as a path seen from ``base_dir`` (None: the folder of
    ``where``), from which all relative paths are taken.

    Raises:
        UsageError: every mistake with file, line, key, and the nearest known key.
    """
    context = Context(base_dir if base_dir is not None else Path(where).parent, is_path)
    document = parse_document(text, where, "AdapterSet")
    found = document.read(ManifestFile, context, lambda value: _across(document, value))
    return AdapterSet(
        file=where,
        base=reference_of(found.base, context) if found.base is not None else None,
        base_written=found.base or "",
        engine=found.engine,
        policy=policy_of(found.policy, document, "policy") if found.policy is not None else None,
        sources=found.sources,
        adapters=tuple(
            Request(
                one.name,
                reference_of(training_run(one.source) or one.source, context),
                one.sha256,
                one.pinned,
                selection=Selection(latest=bool(training_run(one.source))),
                signature=Path(one.signature) if one.signature is not None else None,
                written=one.source,
                at=document.at("adapters", number),
            )
            for number, one in enumerate(found.adapters)
        ),
    )


def source_rule(rules: Iterable[SourceRule], ref: AdapterRef) -> SourceRule | None:
    """The first of a set's source rules that matches ``ref``, or None."""
    return next((rule for rule in rules if matches(rule.match, ref)), None)


def _across(document: Document, value: Any) -> Iterator[Mistake]:
    """Names that appear twice, and more pinned adapters than slots, in a manifest that was not validated yet."""
    for number, first, (name,) in repeats(value, "adapters", "name"):
        if name:
            line = document.line("adapters", first, "name")
            message = f"{name[:128]} is already the name of the adapter in line {line}"
            yield Mistake(("adapters", number, "name"), message, f"name: {name[:128]}-2")
    pinned = sum(one.get("pinned") is True for _, one in mappings(value, "adapters"))
    engine = value.get("engine") if isinstance(value, dict) else None
    slots = engine.get("max_loras") if isinstance(engine, dict) else None
    if isinstance(slots, int) and not isinstance(slots, bool) and 0 < slots < pinned:
        message = f"{pinned} adapters are pinned, but max_loras is {slots}"
        yield Mistake(("engine",), message, f"max_loras: {pinned}")
    yield from repeated(document, value.get("policy") if isinstance(value, dict) else None, "policy")
