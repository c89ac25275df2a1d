"""``Policy``: what an operator allows of sources, formats, sizes, pins and signatures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PrivateAttr, WithJsonSchema, model_validator

from lora_cli.documents.document import Document, Head, Mistake, Model, mistake, parse_document, repeats
from lora_cli.documents.field_types import (
    MOST_GLOBS,
    SHA256,
    Context,
    File,
    Glob,
    Maybe,
    Several,
    Size,
    choice,
    text,
)
from lora_cli.documents.policy_checks import FORMATS

MOST_SIGNERS = 100
"""Keys, certificates or identities of one required signature."""

_OPERATORS_HINT = "only the operator can set it: in --policy FILE, in the settings, or in the environment"


class Suppression(Model):
    """A finding that does not count: what ``rule`` finds in the snapshot ``digest``, for ``reason``."""

    digest: Annotated[
        str,
        text(
            SHA256,
            "a snapshot digest: 64 hexadecimal digits in lower case",
            "see lora-cli fetch --format json or lora-cli cache show",
        ),
    ]
    """The snapshot digest of the adapter."""
    rule: Annotated[str, text("(LC[0-9]{3}|[a-z][a-z0-9-]{0,99})", "a rule: LC504, or its name", "see lora-cli rules")]
    """A rule's code or name."""
    reason: Annotated[
        str,
        text(r"[\s\S]*\S[\s\S]*", "a reason in words", "write who checked it, and why it is correct"),
        AfterValidator(lambda reason: " ".join(reason.split())),
    ]
    """Why the finding is accepted."""
    until: Annotated[
        str,
        text(
            "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])",
            "a day",
            "until: 2027-03-31, the last day on which it applies",
        ),
    ] = ""
    """The last day, in UTC, on which the suppression applies (default: no end)."""
    _at: str = PrivateAttr("")

    @property
    def at(self) -> str:
        """``file:line`` of a document, for messages."""
        return self._at

    def placed(self, at: str) -> Self:
        """The same, from ``at``."""
        placed = self.model_copy()
        placed._at = at
        return placed

    def covers(self, code: str, name: str) -> bool:
        """Whether this is about the rule with that code and name."""
        return self.rule in {code, name}

    def expired(self, today: str) -> bool:
        """Whether it held until a day before ``today``."""
        return bool(self.until) and self.until < today


Globs = Annotated[Several[Glob], Field(max_length=MOST_GLOBS)]


class SigstoreIdentity(Model):
    """Who signed with Sigstore: the identity in the certificate, and who vouches for it."""

    identity: Annotated[str, text(r"\S{1,1024}", "an e-mail address or a URL", "identity: release@acme.com")]
    """The e-mail address or URL in the certificate."""
    issuer: Annotated[str, text(r"https://\S{1,1024}", "an https:// URL", "issuer: https://accounts.google.com")]
    """The OpenID Connect issuer that identified the signer."""


class RequiredSignature(Model):
    """A signature that adapters of some sources must have, by one of these signers."""

    sources: Maybe[Globs] = None
    """Globs for references, as in deny_sources. Missing: all adapters."""
    keys: Annotated[Several[File], Field(max_length=MOST_SIGNERS)] = ()
    """Files with public keys in PEM: ECDSA on P-256, P-384 or P-521. Relative paths are relative to this file."""
    certificates: Annotated[Several[File], Field(max_length=MOST_SIGNERS)] = ()
    """Files with root certificates in PEM. The signer's certificate must chain to one; all must be valid today."""
    identities: Annotated[Several[SigstoreIdentity], Field(max_length=MOST_SIGNERS)] = ()
    """Signers with Sigstore identities."""
    trust_config: Maybe[File] = None
    """A trust configuration of Sigstore. Missing: that of the public instance, which is downloaded."""

    @model_validator(mode="after")
    def _has_signers(self) -> Self:
        if not (self.keys or self.certificates or self.identities):
            raise mistake("there are no signers", "add keys, certificates or identities")
        return self


def _operators(value: bool) -> bool:
    if value:
        raise mistake("a manifest cannot allow that", _OPERATORS_HINT)
    return value


class ManifestPolicy(Model):
    """The rules of a manifest; they can only narrow the operator's policy."""

    allow_sources: Maybe[Globs] = None
    """Globs for references without their revision (with it if the glob has an @). * also matches /. Missing: all are
    allowed; empty: none.
    """
    deny_sources: Globs = ()
    """Like allow_sources, and takes precedence over it."""
    allow_formats: Maybe[Several[Annotated[str, choice(FORMATS)]]] = None
    """Allowed formats of weights. Missing: all but pickle. A pickle also needs --allow-pickle; without a policy, only
    --allow-pickle.
    """
    max_bytes: Maybe[Size] = None
    """Largest size of one adapter. Bytes: a number, 2GiB (powers of 1024) or 500MB (powers of 1000)."""
    require_pinned: bool = False
    """Allow only a commit, an OCI digest or a known sha256, and no branch."""
    require_sha256: bool = False
    """Allow only adapters whose snapshot digest is in a manifest or a lock."""
    require_signature: Annotated[Several[RequiredSignature], Field(max_length=MOST_GLOBS)] = ()
    """Allow only adapters with a valid model.sig (OpenSSF Model Signing), for all entries that are for their source."""
    allow_private_redirects: Annotated[Maybe[bool], AfterValidator(_operators), WithJsonSchema({"const": False})] = None
    """Only --policy and the settings can allow that."""
    suppressions: Several[Suppression] = ()
    """Findings that do not count, each of one rule for one snapshot digest."""


class Policy(ManifestPolicy):
    """The rules that an operator sets for adapters.

    An ``allow_*`` of None allows everything, an empty one nothing; a ``deny_*`` wins over it. Globs are canonical.
    ``allow_private_redirects`` of None says nothing.
    """

    allow_private_redirects: Maybe[bool] = None
    """Follow redirects to private network addresses, but never to link-local ones."""


class PolicyFile(Policy, Head):
    """The rules that an operator sets for adapters."""

    kind: Literal["Policy"]
    """The kind of this file."""


def load_policy(text: str, where: str, *, base_dir: Path | None = None) -> Policy:
    """The policy in a file of its own (``kind: Policy``). Relative globs are relative to ``base_dir``.

    Raises:
        UsageError: every mistake with file, line, key, and the nearest known key.
    """
    document = parse_document(text, where, "Policy")
    found = document.read(PolicyFile, Context(base_dir or Path()), lambda value: repeated(document, value))
    return policy_of(found, document)


def policy_of(found: ManifestPolicy, document: Document, *path: str) -> Policy:
    """``found``, which is at ``path`` of ``document``, as the policy of an operator; suppressions know their lines."""
    fields = {key: getattr(found, key) for key in found.model_fields_set if key in Policy.model_fields}
    placed = (one.placed(document.at(*path, "suppressions", number)) for number, one in enumerate(found.suppressions))
    return Policy.model_construct(**{**fields, "suppressions": tuple(placed)})


def repeated(document: Document, value: Any, *path: str) -> Iterator[Mistake]:
    """Suppressions of one rule for one digest, after the first: ``value`` is the policy at ``path``."""
    for number, first, (_, rule) in repeats(value, "suppressions", "digest", "rule"):
        at = document.at(*path, "suppressions", first)
        message = f"{rule[:60]} is suppressed twice for that digest (first at {at})"
        yield Mistake((*path, "suppressions", number), message, "remove one of them")
