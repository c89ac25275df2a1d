"""``AdapterSet``: which adapters, for which base, under which policy; and the YAML that says so."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_cli.core.checkpoint import checked, folder_of
from lora_cli.core.document import Node, parse_document, wrong
from lora_cli.core.fields import boolean, few, fields, head, integer, items, secret_free, text, version
from lora_cli.core.globs import covers
from lora_cli.core.names import NAME, NAME_HINT, NAME_IN_WORDS
from lora_cli.core.policy import DIGEST_HINT, MOST_GLOBS, SHA256, Policy, policy_from, read_glob
from lora_cli.core.reference import AdapterRef, override, parse
from lora_cli.core.trust import PROFILE, VARIABLE
from lora_cli.errors import UsageError

IN_THE_SOURCE = {
    "revision": "it belongs to the source: hf://ORG/NAME@REVISION",
    "subfolder": "it belongs to the source: hf://ORG/NAME/SUBFOLDER",
    **dict.fromkeys(("path", "url", "repo", "repo_id", "lora_path"), "source: a path or a reference"),
}
"""Keys that people try for an adapter, and how it is written."""

ENGINE_NAME = r"[a-z][a-z0-9_-]{0,31}"


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """The engine that the set is for, and its limits in that engine's own words; None for what is not said."""

    name: str
    version: str | None = None
    max_lora_rank: int | None = None
    max_loras: int | None = None
    max_cpu_loras: int | None = None


@dataclass(frozen=True, slots=True)
class SourceRule:
    """How to reach the sources that the glob ``match`` covers. Names of secrets, never values.

    ``profile`` is a profile of the cloud's own credentials file, ``token_env`` the environment variable with a token,
    both as far as the operator lets a manifest name them (``sources.trusted``); ``anonymous`` requests carry no
    credentials, and with ``requester_pays`` whoever asks is charged.
    """

    match: str
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    token_env: str | None = None
    anonymous: bool = False
    requester_pays: bool = False


@dataclass(frozen=True, slots=True)
class AdapterEntry:
    """One adapter of the set.

    ``name`` is unique and safe as a path component. ``source`` is parsed, relative paths from the manifest's folder;
    ``written`` is how the manifest has it. ``checkpoint`` is one of a training run by its number, whose folder
    ``source`` then has, or ``latest``. ``sha256`` is the snapshot digest that it must have, ``pinned`` keeps it in the
    GPU tier. ``at`` is ``file:line``, for messages.
    """

    name: str
    source: AdapterRef
    written: str
    sha256: str | None = None
    pinned: bool = False
    at: str = ""
    checkpoint: str = ""


@dataclass(frozen=True, slots=True)
class AdapterSet:
    """A manifest, parsed. ``base`` is None when it names none; ``file`` is what errors call it."""

    file: str
    base: AdapterRef | None
    engine: EngineSpec | None
    policy: Policy | None
    sources: tuple[SourceRule, ...]
    adapters: tuple[AdapterEntry, ...]


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a manifest stands: what relative references mean."""

    base_dir: Path
    is_path: Callable[[str], bool]


def load_manifest(text: str, where: str, *, is_path: Callable[[str], bool], base_dir: Path | None = None) -> AdapterSet:
    """The adapter set in ``text``; ``where`` is what errors call the file.

    ``is_path`` says whether a reference, as it is written, exists as a path seen from ``base_dir`` (None: the folder of
    ``where``), from which all relative paths are taken.

    Raises:
        UsageError: with file, line, key, and the nearest known key.
    """
    origin = _Origin(base_dir if base_dir is not None else Path(where).parent, is_path)
    known = ("base", "engine", "policy", "sources", "adapters")
    root = parse_document(text, where)
    entries = head(root, "AdapterSet", known, ("adapters",))
    adapters = tuple(_adapters(entries["adapters"], origin))
    engine = _engine(entries["engine"]) if "engine" in entries else None
    pinned = sum(adapter.pinned for adapter in adapters)
    if engine and engine.max_loras is not None and pinned > engine.max_loras:
        raise wrong(
            entries["engine"],
            f"{pinned} adapters are pinned, and max_loras is {engine.max_loras}",
            hint=f"max_loras: {pinned}",
        )
    return AdapterSet(
        file=where,
        base=_reference(entries["base"], origin) if "base" in entries else None,
        engine=engine,
        policy=policy_from(entries["policy"], origin.base_dir) if "policy" in entries else None,
        sources=tuple(_source_rules(entries["sources"], origin)) if "sources" in entries else (),
        adapters=adapters,
    )


def source_rule(rules: Iterable[SourceRule], ref: AdapterRef) -> SourceRule | None:
    """The first of a set's source rules that covers ``ref``, or None."""
    return next((rule for rule in rules if covers(rule.match, ref)), None)


def _adapters(node: Node, origin: _Origin) -> Iterator[AdapterEntry]:
    first: dict[str, int] = {}
    members = items(node)
    if not members:
        raise wrong(node, "the list is empty", hint="name at least one adapter")
    for member in members:
        entries = fields(
            member, ("name", "source", "checkpoint", "sha256", "pinned"), ("name", "source"), IN_THE_SOURCE
        )
        name = text(entries["name"], NAME, NAME_IN_WORDS, NAME_HINT)
        if name in first:
            raise wrong(
                entries["name"],
                f"{name} is the name of the adapter in line {first[name]} already",
                hint=f"name: {name}-2",
            )
        first[name] = entries["name"].line
        checkpoint = _checkpoint(entries["checkpoint"]) if "checkpoint" in entries else ""
        yield AdapterEntry(
            name=name,
            source=_in_folder(_reference(entries["source"], origin), checkpoint, member),
            written=text(entries["source"]),
            sha256=_sha256(entries),
            pinned=boolean(entries["pinned"]) if "pinned" in entries else False,
            at=f"{member.file}:{member.line}",
            checkpoint=checkpoint,
        )


def _checkpoint(node: Node) -> str:
    """``latest``, or a number, quoted or not: its digits count."""
    try:
        return checked(node.text if node.kind == "scalar" and not isinstance(node.scalar, bool) else "")
    except ValueError as error:
        raise wrong(node, str(error), hint="checkpoint: latest") from error


def _in_folder(ref: AdapterRef, checkpoint: str, member: Node) -> AdapterRef:
    try:
        return override(ref, subfolder=folder_of(checkpoint))
    except UsageError as error:
        raise wrong(member, error.message, hint="leave checkpoint out") from error


def _sha256(entries: Mapping[str, Node]) -> str | None:
    if "sha256" not in entries:
        return None
    return text(entries["sha256"], SHA256, "a sha256: 64 hexadecimal digits in lower case", DIGEST_HINT)


def _reference(node: Node, origin: _Origin) -> AdapterRef:
    written = text(node)
    try:
        return parse(written, is_path=origin.is_path, base_dir=origin.base_dir)
    except UsageError as error:
        raise wrong(node, error.message, hint=error.hint or "source: hf://ORG/NAME@COMMIT") from error


def _engine(node: Node) -> EngineSpec:
    limits = ("max_lora_rank", "max_loras", "max_cpu_loras")
    entries = fields(node, ("name", "version", *limits), ("name",))
    engine = EngineSpec(
        name=text(entries["name"], ENGINE_NAME, "the name of an engine", "name: vllm; lora-cli engines lists them"),
        version=version(entries["version"]) if "version" in entries else None,
        **{limit: integer(entries[limit], 1, 100_000) for limit in limits if limit in entries},
    )
    if engine.max_loras and engine.max_cpu_loras and engine.max_cpu_loras < engine.max_loras:
        raise wrong(
            entries["max_cpu_loras"],
            f"{engine.max_cpu_loras} is less than max_loras, which is {engine.max_loras}",
            hint=f"max_cpu_loras: {engine.max_loras}",
        )
    return engine


def _source_rules(node: Node, origin: _Origin) -> Iterator[SourceRule]:
    for member in few(node, MOST_GLOBS):
        flags = ("anonymous", "requester_pays")
        entries = fields(member, ("match", *_SECRET_FREE, *flags), ("match",))
        said: dict[str, Any] = {
            key: secret_free(entries[key], *_SECRET_FREE[key]) for key in _SECRET_FREE if key in entries
        }
        asked: dict[str, Any] = {key: boolean(entries[key]) for key in flags if key in entries}
        if asked.get("anonymous") and (secrets := said.keys() & {"profile", "token_env"}):
            raise wrong(member, f"anonymous and {min(secrets)} exclude each other", hint="leave one of them out")
        rule = SourceRule(read_glob(entries["match"], origin.base_dir))
        yield replace(rule, **said, **asked)


_SECRET_FREE = {
    "endpoint_url": (
        r"https?://[^\s/?#@]+(/[^\s?#@]*)?",
        "an address without user, query or fragment: https://HOST[/PATH]",
        "https://minio.example.com; profile or token_env say who asks",
    ),
    "region": (r"[a-z0-9][a-z0-9-]{0,31}", "the name of a region", "region: eu-west-1"),
    "profile": (PROFILE, "the name of a profile", "its name in ~/.aws/config, never a key"),
    "token_env": (
        VARIABLE,
        "the name of an environment variable",
        "token_env: LORA_CLI_TOKEN_ACME; the token is its value",
    ),
}
