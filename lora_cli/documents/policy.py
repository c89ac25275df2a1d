"""``Policy``: what an operator allows of sources, formats, sizes, pins and signatures."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from lora_cli.documents.document import Head, Model, parse_yaml, read_text
from lora_cli.documents.fields import File, Globs, Size


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
    allow_formats: tuple[Literal["safetensors", "pickle", "gguf"], ...] | None = None
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
