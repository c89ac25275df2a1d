"""Violations of a policy by an adapter: its source, formats, size and pins."""

import posixpath
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_cli.refs.globs import matches
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.text import names as some

if TYPE_CHECKING:
    from lora_cli.documents.policy import Policy

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
    ref, found = names[0], [*source_violations(policy, *names)]
    fetch = f"lora-cli fetch {shlex.quote(str(ref))} --format json"
    learn = f"write its sha256 in the manifest ({fetch} prints it, without this policy), or lock it without this policy"
    if policy.require_sha256 and sha256 is None:
        found.append(Violation("require_sha256", f"no sha256 is given for {ref}", learn))
    if policy.require_pinned and sha256 is None and not ref.pinned:
        revision = {"hf": "add @COMMIT, or ", "oci": "add @sha256:DIGEST, or "}.get(ref.scheme, "")
        found.append(Violation("require_pinned", f"{ref} is not pinned", revision + learn))
    allowed = ("safetensors", "gguf") if policy.allow_formats is None else policy.allow_formats
    for file in files or ():
        kind = format_of(file.path)
        if kind and kind not in allowed:
            said = f"{file.path} is {kind}; allowed: {', '.join(allowed) or 'no format'}"
            found.append(Violation("allow_formats", said))
    total = sum(file.size or 0 for file in files or ())
    if policy.max_bytes is not None and total > policy.max_bytes:
        found.append(Violation("max_bytes", f"the adapter has {total} bytes, over {policy.max_bytes}"))
    return tuple(found)


def source_violations(policy: "Policy", *names: AdapterRef) -> Iterator[Violation]:
    """The violations of ``policy`` by the sources that ``names`` say."""
    yield from denials(policy, *names)
    for ref in names:
        if policy.allow_sources is not None and not any(matches(glob, ref) for glob in policy.allow_sources):
            allowed = some(policy.allow_sources, 5) or "the empty list"
            yield Violation("allow_sources", f"{ref} does not match {allowed}")


def denials(policy: "Policy", *names: AdapterRef) -> Iterator[Violation]:
    """The violations of ``deny_sources`` by the sources that ``names`` say."""
    for ref in names:
        for glob in policy.deny_sources:
            if matches(glob, ref):
                yield Violation("deny_sources", f"{ref} matches {some([glob])}")


def format_of(path: str) -> str | None:
    """The weight format that a file's name promises, as a policy has it; None for a file that is not weights."""
    return _FORMAT_OF.get(posixpath.splitext(path)[1].lower())
