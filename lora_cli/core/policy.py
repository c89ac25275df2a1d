"""What an operator allows: sources, hosts, formats, sizes, digests and pins. Parsed once, asked by ``violations``."""

import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from lora_cli.core.document import Node, parse_document, wrong
from lora_cli.core.fields import boolean, choice, few, fields, head, items, size, text, texts
from lora_cli.core.globs import LOOPBACK, covers, host_glob, host_matches, source_glob, touches
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile
from lora_cli.core.suppression import Suppression, read_suppressions
from lora_cli.core.trust import endpoint_glob, profile, variable
from lora_cli.core.units import advised
from lora_cli.core.web_address import is_dots, is_loopback

SHA256 = r"[0-9a-f]{64}"
GLOB_HINT = "write hf://ORG/*, s3://BUCKET/*, https://HOST/* or ./FOLDER"
DIGEST_HINT = "the digest of the snapshot, as lora-cli cache ls tells it; not of one file"
FORMATS = ("safetensors", "pickle", "gguf")
UNNAMED_FORMATS = ("safetensors", "gguf")
MOST_GLOBS, LONGEST_GLOB = 1000, 1024
"""Globs of one list, and the characters of one."""

MOST_DIGESTS = 100_000
"""Digests of one list."""

MOST_TOLD, LONGEST_TOLD = 5, 200
"""Globs that one message names, and their characters."""

_FORMAT_OF = {
    ".safetensors": "safetensors",
    ".gguf": "gguf",
    **dict.fromkeys((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"), "pickle"),
}


@dataclass(frozen=True, slots=True)
class Policy:
    """What is allowed. An ``allow_*`` of None allows everything, an empty one nothing; a ``deny_*`` wins over it.

    Sources are globs over canonical references without the revision (``hf://acme/*``, ``s3://bucket/team/*``), or with
    it when the glob has an ``@``; ``*`` crosses ``/``, and what lies below a match matches. Hosts are globs over host
    names. ``allow_formats`` are of ``FORMATS``; None allows all but pickle, which must be named.
    ``max_bytes`` is for an adapter, ``max_file_bytes`` for one file.
    ``require_pinned``: a commit or a digest, never a branch. ``require_sha256``: the snapshot digest must be known
    before. ``allow_sha256`` and ``deny_sha256`` are snapshot digests. ``require_access_check``: what is not known to be
    public is handed out of a cache only after its origin let the caller read it. ``allow_private_redirects``: a server
    may send us on to an address of a private network (None: not said). ``suppressions``: findings that do not count.
    ``trusted_endpoints``, ``allow_token_env`` and ``allow_profiles`` let manifests use an operator's credentials; no
    manifest's own policy has them.
    """

    allow_sources: tuple[str, ...] | None = None
    deny_sources: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] | None = None
    deny_hosts: tuple[str, ...] = ()
    allow_formats: tuple[str, ...] | None = None
    max_bytes: int | None = None
    max_file_bytes: int | None = None
    require_pinned: bool = False
    require_sha256: bool = False
    allow_sha256: tuple[str, ...] | None = None
    deny_sha256: tuple[str, ...] = ()
    require_access_check: bool = False
    allow_private_redirects: bool | None = None
    suppressions: tuple[Suppression, ...] = ()
    trusted_endpoints: tuple[str, ...] = ()
    allow_token_env: tuple[str, ...] = ()
    allow_profiles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule of a policy that one adapter breaks: its key, what is so, and what mends it."""

    rule: str
    message: str
    hint: str = "ask whoever keeps the policy, or choose what it allows"

    def __str__(self) -> str:
        return f"policy {self.rule}: {self.message}"


def load_policy(text: str, where: str, *, base_dir: Path | None = None) -> Policy:
    """The policy in a file of its own (``kind: Policy``). Relative globs are relative to ``base_dir``.

    Raises:
        UsageError: with file, line, key, and the nearest known key.
    """
    entries = head(parse_document(text, where), "Policy", _GETTERS)
    return _policy(entries, base_dir or Path())


def policy_from(node: Node, base_dir: Path) -> Policy:
    """The policy under a manifest's ``policy`` key; raises as ``load_policy``.

    It narrows what the operator allows: whoever writes a manifest writes this.
    """
    narrowing = [key for key in _GETTERS if key not in _OPERATORS]
    policy = _policy(fields(node, narrowing, instead=dict.fromkeys(_OPERATORS, _OPERATORS_HINT)), base_dir)
    if policy.allow_private_redirects:
        raise wrong(node.entries["allow_private_redirects"], "a manifest cannot allow that", hint=_OPERATORS_HINT)
    return policy


def violations(
    policy: Policy,
    ref: AdapterRef,
    *,
    sha256: str | None = None,
    host: str | None = None,
    files: Iterable[RemoteFile] | None = None,
    digest: str | None = None,
) -> tuple[Violation, ...]:
    """What ``policy`` has against one adapter, as far as is known; asked again when more is known.

    ``sha256`` is the snapshot digest that a manifest or lock demands, ``host`` the one that bytes come from (None: from
    this machine), ``files`` what would be fetched, ``digest`` the snapshot digest that it turned out to have.
    What is None is not judged, but a demanded ``sha256`` of None is none.
    """
    found = [*source_violations(policy, ref), *_pins(policy, ref, sha256)]
    if host is not None:
        found += host_violations(policy, host)
    if files is not None:
        found += _files(policy, tuple(files))
    if digest is not None:
        found += _digest(policy, digest)
    return tuple(found)


def source_violations(policy: Policy, ref: AdapterRef) -> Iterator[Violation]:
    """What ``policy`` has against the place alone that ``ref`` names."""
    yield from denials(policy, ref)
    if policy.allow_sources is None:
        return
    if ref.scheme != "file" and any(is_dots(part) for part in unquote(ref.location).split("/")):
        # Some servers would follow it out of the folder that a glob allows.
        yield Violation("allow_sources", f"{ref} has .. in its path", "write the path without it")
    elif not any(covers(glob, ref) for glob in policy.allow_sources):
        yield Violation("allow_sources", f"{ref} matches none of {_some(policy.allow_sources) or 'no sources'}")


def denials(policy: Policy, ref: AdapterRef) -> Iterator[Violation]:
    """Which of the policy's ``deny_sources`` mean ``ref``."""
    for glob in policy.deny_sources:
        if touches(glob, ref):
            yield Violation("deny_sources", f"{ref} matches {_some((glob,))}")


def host_violations(policy: Policy, host: str) -> Iterator[Violation]:
    """What ``policy`` has against a host (without a port) that bytes come from."""
    names = (host, *LOOPBACK) if is_loopback(f"[{host}]" if ":" in host else host) else (host,)
    for glob in policy.deny_hosts:
        if any(host_matches(glob, name) for name in names):
            yield Violation("deny_hosts", f"{host} matches {_some((glob,))}")
    if policy.allow_hosts is not None and not any(host_matches(glob, host) for glob in policy.allow_hosts):
        yield Violation("allow_hosts", f"{host} matches none of {_some(policy.allow_hosts) or 'no hosts'}")


def _some(globs: tuple[str, ...]) -> str:
    """The first few globs, each cut, and how many more there are."""
    told = [glob if len(glob) <= LONGEST_TOLD else f"{glob[:LONGEST_TOLD]}…" for glob in globs[:MOST_TOLD]]
    return ", ".join(told) + (f" and {len(globs) - MOST_TOLD} more" if len(globs) > MOST_TOLD else "")


def _pins(policy: Policy, ref: AdapterRef, sha256: str | None) -> Iterator[Violation]:
    if policy.require_sha256 and sha256 is None:
        yield Violation(
            "require_sha256", f"no sha256 is given for {ref}", "write its sha256 in the manifest, or use a lock"
        )
    if policy.require_pinned and sha256 is None and not ref.pinned:
        hint = "add @COMMIT, or its sha256 in the manifest"
        if ref.scheme != "hf":
            what = "a folder" if ref.scheme == "file" else f"{ref.scheme}://"
            hint = f"{what} has no commit to add: write its sha256 in the manifest, or lock it and fetch with --locked"
        yield Violation("require_pinned", f"{ref} can mean something else tomorrow", hint)


def _files(policy: Policy, files: tuple[RemoteFile, ...]) -> Iterator[Violation]:
    allowed = UNNAMED_FORMATS if policy.allow_formats is None else policy.allow_formats
    for file in files:
        kind = format_of(file.path)
        if kind and kind not in allowed:
            names = ", ".join(allowed) or "no format"
            yield Violation("allow_formats", f"{file.path} is {kind}; allowed: {names}")
        if policy.max_file_bytes is not None and (file.size or 0) > policy.max_file_bytes:
            yield Violation("max_file_bytes", f"{file.path} has {file.size} bytes, over {policy.max_file_bytes}")
    total = sum(file.size or 0 for file in files)
    if policy.max_bytes is not None and total > policy.max_bytes:
        yield Violation("max_bytes", f"the adapter has {total} bytes, over {policy.max_bytes}")


def _digest(policy: Policy, digest: str) -> Iterator[Violation]:
    if digest in policy.deny_sha256:
        yield Violation("deny_sha256", f"the snapshot {digest} is denied")
    if policy.allow_sha256 is not None and digest not in policy.allow_sha256:
        yield Violation("allow_sha256", f"the snapshot {digest} is not among those allowed")


def format_of(path: str) -> str | None:
    """The weight format that a file's name promises, one of ``FORMATS``; None for a file that is not weights."""
    return _FORMAT_OF.get(posixpath.splitext(path)[1].lower())


def _policy(entries: Mapping[str, Node], base_dir: Path) -> Policy:
    return Policy(**{key: _GETTERS[key](node, base_dir) for key, node in entries.items() if key in _GETTERS})


def _source_globs(node: Node, base_dir: Path) -> tuple[str, ...]:
    return tuple(read_glob(member, base_dir) for member in few(node, MOST_GLOBS))


def read_glob(node: Node, base_dir: Path) -> str:
    """A glob over references, canonical; a relative path in it is relative to ``base_dir``."""
    try:
        return source_glob(text(node, f".{{1,{LONGEST_GLOB}}}", "a glob of one line", GLOB_HINT), base_dir)
    except ValueError as error:
        raise wrong(node, str(error), hint=GLOB_HINT) from error


def _hosts(node: Node, _: Path) -> tuple[str, ...]:
    what = "a host name or a glob over host names, without scheme and port"
    few(node, MOST_GLOBS)
    return tuple(
        host_glob(name)
        for name in texts(node, r"[A-Za-z0-9*?_.:\[\]-]{1,253}", what, "write huggingface.co, or '*.acme.internal'")
    )


def _digests(node: Node, _: Path) -> tuple[str, ...]:
    few(node, MOST_DIGESTS)
    return texts(node, SHA256, "a sha256: 64 hexadecimal digits in lower case", DIGEST_HINT)


def _named(check: Callable[[str], str]) -> Callable[[Node, Path], tuple[str, ...]]:
    """A list of words, each as ``check`` has it."""

    def read(node: Node, _: Path) -> tuple[str, ...]:
        return tuple(_checked(member, check) for member in items(node))

    return read


def _checked(node: Node, check: Callable[[str], str]) -> str:
    try:
        return check(text(node))
    except ValueError as error:
        message, advice = advised(error)
        raise wrong(node, message, hint=advice) from error


_OPERATORS = ("trusted_endpoints", "allow_token_env", "allow_profiles")
_OPERATORS_HINT = "only the operator says that: in --policy FILE, in the settings, or in the environment"

_GETTERS: Mapping[str, Callable[[Node, Path], Any]] = {
    "allow_sources": _source_globs,
    "deny_sources": _source_globs,
    "allow_hosts": _hosts,
    "deny_hosts": _hosts,
    "allow_formats": lambda node, _: tuple(choice(member, FORMATS) for member in items(node)),
    "max_bytes": lambda node, _: size(node),
    "max_file_bytes": lambda node, _: size(node),
    "require_pinned": lambda node, _: boolean(node),
    "require_sha256": lambda node, _: boolean(node),
    "allow_sha256": _digests,
    "deny_sha256": _digests,
    "require_access_check": lambda node, _: boolean(node),
    "allow_private_redirects": lambda node, _: boolean(node),
    "suppressions": read_suppressions,
    "trusted_endpoints": _named(endpoint_glob),
    "allow_token_env": _named(variable),
    "allow_profiles": _named(profile),
}
