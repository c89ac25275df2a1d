"""``Policy``: what an operator allows of sources, formats, sizes, pins and signatures, and what violates it."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from lora_cli.documents.document import File, Globs, Head, Model, Size, parse_yaml, read_text
from lora_cli.refs.adapter_files import format_of
from lora_cli.refs.reference import AdapterRef, matches
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.text import names as some


class SigstoreIdentity(Model):
    """Who signed with Sigstore: the identity in the certificate, and who vouches for it."""

    identity: Annotated[str, Field(pattern=r"^\S{1,1024}$")]
    """The e-mail address or URL in the certificate."""
    issuer: Annotated[str, Field(pattern=r"^https://\S{1,1024}$")]
    """The OpenID Connect issuer that identified the signer: https://accounts.google.com."""


class RequiredSignature(Model):
    """A signature that adapters of some sources must have, by one of these signers."""

    sources: Globs | None = None
    """Globs for references, as in deny_sources. Missing: all adapters."""
    keys: tuple[File, ...] = ()
    """Files with public keys in PEM: ECDSA on P-256, P-384 or P-521. Relative paths are relative to this file."""
    certificates: tuple[File, ...] = ()
    """Files with root certificates in PEM. The signer's certificate must chain to one; all must be valid today."""
    identities: tuple[SigstoreIdentity, ...] = ()
    """Signers with Sigstore identities."""
    trust_config: File | None = None
    """A trust configuration of Sigstore. Missing: that of the public instance, which is downloaded."""

    @model_validator(mode="after")
    def _has_signers(self) -> Self:
        if not (self.keys or self.certificates or self.identities):
            raise ValueError("there are no signers", "add keys, certificates or identities")
        return self


class Policy(Model):
    """The rules that adapters must pass. Those of a manifest can only narrow the operator's.

    An ``allow_*`` of None allows everything, an empty one nothing; a ``deny_*`` wins over it. Globs are canonical.
    """

    instead: ClassVar = {
        "suppressions": "accept findings in a file: lora-cli validate --write-baseline FILE, then --baseline FILE",
    }

    allow_sources: Globs | None = None
    """Globs for references without their revision (with it if the glob has an @). * also matches /. Missing: all are
    allowed; empty: none.
    """
    deny_sources: Globs = ()
    """Like allow_sources, and takes precedence over it."""
    allow_formats: tuple[Literal["safetensors", "pickle"], ...] | None = None
    """Allowed formats of weights. Missing: all but pickle. A pickle also needs --allow-pickle; without a policy, only
    --allow-pickle.
    """
    max_bytes: Size | None = None
    """Largest size of one adapter. Bytes: a number, 2GiB (powers of 1024) or 500MB (powers of 1000)."""
    require_pinned: bool = False
    """Allow only a commit, an OCI digest or a known sha256, and no branch."""
    require_sha256: bool = False
    """Allow only adapters whose snapshot digest is in a manifest or a lock."""
    require_signature: tuple[RequiredSignature, ...] = ()
    """Allow only adapters with a valid model.sig (OpenSSF Model Signing), for all entries that are for their source."""


class PolicyFile(Policy, Head):
    """The rules that an operator sets for adapters."""

    kind: Literal["Policy"]
    """The kind of this file."""


def read_policy(path: Path) -> Policy:
    """The policy in a file of its own (``kind: Policy``), which its relative globs are relative to.

    Raises:
        NotFound: there is no such file.
        UsageError: every mistake with file, line, key, and the nearest known key.
        MachineError: it cannot be read.
    """
    return parse_yaml(read_text(path, "policy"), str(path)).read(PolicyFile, path.absolute().parent)


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule of a policy that one adapter breaks: its key, what is so, and what fixes it."""

    rule: str
    message: str
    hint: str = "ask the owner of the policy, or use an adapter that it allows"

    def __str__(self) -> str:
        return f"policy {self.rule}: {self.message}"


def violations(
    policy: Policy, names: Sequence[AdapterRef], sha256: str | None = None, files: Sequence[RemoteFile] | None = None
) -> tuple[Violation, ...]:
    """The violations of ``policy`` by one adapter, as far as is known; called again when more is known.

    ``names`` are its reference and, of a local one, where that leads to: all must be allowed. ``sha256`` is the
    snapshot digest that a manifest or lock demands (None fails where one is required), ``files`` what would be fetched
    (None is not checked).
    """
    ref, found = names[0], [*source_violations(policy, *names)]
    fetch = f"lora-cli fetch {shlex.quote(str(ref))} --format json"
    learn = (
        f"write its sha256 in the manifest ({fetch} prints it, without this policy), or lock it without this policy: "
        "validate -f and fetch --locked then accept it"
    )
    if policy.require_sha256 and sha256 is None:
        found.append(Violation("require_sha256", f"no sha256 is given for {ref}", learn))
    if policy.require_pinned and sha256 is None and not ref.pinned:
        revision = {"hf": "add @COMMIT, or ", "oci": "add @sha256:DIGEST, or "}.get(ref.scheme, "")
        found.append(Violation("require_pinned", f"{ref} is not pinned", revision + learn))
    allowed = ("safetensors",) if policy.allow_formats is None else policy.allow_formats
    for file in files or ():
        kind = format_of(file.path)
        if kind and kind not in allowed:
            said = f"{file.path} is {kind}; allowed: {', '.join(allowed) or 'no format'}"
            found.append(Violation("allow_formats", said))
    total = sum(file.size or 0 for file in files or ())
    if policy.max_bytes is not None and total > policy.max_bytes:
        found.append(Violation("max_bytes", f"the adapter has {total} bytes, over {policy.max_bytes}"))
    return tuple(found)


def source_violations(policy: Policy, *names: AdapterRef) -> Iterator[Violation]:
    """The violations of ``policy`` by the sources that ``names`` say."""
    yield from denials(policy, *names)
    for ref in names:
        if policy.allow_sources is not None and not any(matches(glob, ref) for glob in policy.allow_sources):
            allowed = some(policy.allow_sources, 5) or "the empty list"
            yield Violation("allow_sources", f"{ref} does not match {allowed}")


def denials(policy: Policy, *names: AdapterRef) -> Iterator[Violation]:
    """The violations of ``deny_sources`` by the sources that ``names`` say."""
    for ref in names:
        for glob in policy.deny_sources:
            if matches(glob, ref):
                yield Violation("deny_sources", f"{ref} matches {some([glob])}")
