"""Violations of a policy by an adapter: its source, formats, size and pins."""

import posixpath
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_cli.refs.globs import matches
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import RemoteFile

if TYPE_CHECKING:
    from lora_cli.documents.policy import Policy

FORMATS = ("safetensors", "pickle", "gguf")
UNNAMED_FORMATS = ("safetensors", "gguf")
MOST_SHOWN, LONGEST_SHOWN = 5, 200
"""Globs that one message names, and their characters."""

_FORMAT_OF = {
    ".safetensors": "safetensors",
    ".gguf": "gguf",
    **dict.fromkeys((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"), "pickle"),
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule of a policy that one adapter breaks: its key, what is so, and what fixes it."""

    rule: str
    message: str
    hint: str = "ask the owner of the policy, or use an adapter that it allows"

    def __str__(self) -> str:
        return f"policy {self.rule}: {self.message}"


def violations(
    policy: "Policy", names: Sequence[AdapterRef], sha256: str | None = None, files: Sequence[RemoteFile] | None = None
) -> tuple[Violation, ...]:
    """The violations of ``policy`` by one adapter, as far as is known; called again when more is known.

    ``names`` are its reference and, of a local one, where that leads to: all must be allowed. ``sha256`` is the
    snapshot digest that a manifest or lock demands (None fails where one is required), ``files`` what would be fetched
    (None is not checked).
    """
    of_files = () if files is None else _files(policy, files)
    return (*source_violations(policy, *names), *_pins(policy, names[0], sha256), *of_files)


def source_violations(policy: "Policy", *names: AdapterRef) -> Iterator[Violation]:
    """The violations of ``policy`` by the sources that ``names`` say."""
    yield from denials(policy, *names)
    for ref in names:
        if policy.allow_sources is not None and not any(matches(glob, ref) for glob in policy.allow_sources):
            yield Violation("allow_sources", f"{ref} does not match {_some(policy.allow_sources) or 'the empty list'}")


def denials(policy: "Policy", *names: AdapterRef) -> Iterator[Violation]:
    """The violations of ``deny_sources`` by the sources that ``names`` say."""
    for ref in names:
        for glob in policy.deny_sources:
            if matches(glob, ref):
                yield Violation("deny_sources", f"{ref} matches {_some((glob,))}")


def _some(globs: tuple[str, ...]) -> str:
    """The first few globs, each cut, and how many more there are."""
    shown = [glob if len(glob) <= LONGEST_SHOWN else f"{glob[:LONGEST_SHOWN]}…" for glob in globs[:MOST_SHOWN]]
    return ", ".join(shown) + (f" and {len(globs) - MOST_SHOWN} more" if len(globs) > MOST_SHOWN else "")


def _pins(policy: "Policy", ref: AdapterRef, sha256: str | None) -> Iterator[Violation]:
    if policy.require_sha256 and sha256 is None:
        yield Violation("require_sha256", f"no sha256 is given for {ref}", _where_to_learn(ref))
    if policy.require_pinned and sha256 is None and not ref.pinned:
        hint = "add @COMMIT, or its sha256 in the manifest"
        if ref.scheme == "oci":
            hint = "add @sha256:DIGEST, or its sha256 in the manifest"
        elif ref.scheme != "hf":
            what = "a folder" if ref.scheme == "file" else f"{ref.scheme}://"
            hint = f"{what} has no commit to add: {_where_to_learn(ref)}"
        yield Violation("require_pinned", f"{ref} is not pinned", hint)


def _where_to_learn(ref: AdapterRef) -> str:
    """A hint how to learn the digest, which this policy requires before a fetch."""
    fetch = f"lora-cli fetch {shlex.quote(str(ref))} --format json"
    return f"write its sha256 in the manifest ({fetch} prints it, without this policy), or lock it without this policy"


def _files(policy: "Policy", files: Sequence[RemoteFile]) -> Iterator[Violation]:
    allowed = UNNAMED_FORMATS if policy.allow_formats is None else policy.allow_formats
    for file in files:
        kind = format_of(file.path)
        if kind and kind not in allowed:
            names = ", ".join(allowed) or "no format"
            yield Violation("allow_formats", f"{file.path} is {kind}; allowed: {names}")
    total = sum(file.size or 0 for file in files)
    if policy.max_bytes is not None and total > policy.max_bytes:
        yield Violation("max_bytes", f"the adapter has {total} bytes, over {policy.max_bytes}")


def format_of(path: str) -> str | None:
    """The weight format that a file's name promises, one of ``FORMATS``; None for a file that is not weights."""
    return _FORMAT_OF.get(posixpath.splitext(path)[1].lower())
