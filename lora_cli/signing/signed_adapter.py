"""Check the signatures that policies require: who signed, and that exactly the signed files are there."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.errors import LoraCliError, MissingExtra, Refused
from lora_cli.refs.adapter_files import LARGEST_SIGNATURE, SIGNATURE
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import Blob, RemoteFile, Revision
from lora_cli.text import names

if TYPE_CHECKING:
    from lora_cli.documents.policy import RequiredSignature
    from lora_cli.signing.verify import SignedFiles

RULE = "policy require_signature"
GIT_FILES = frozenset({".gitattributes", ".gitignore"})
GIT_FOLDERS = (".git/", ".github/")
"""What model-signing leaves out of each signature. Other files that a signature leaves out are not accepted."""


Select = Callable[[Revision], Iterable[RemoteFile]]


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of an adapter, its ``signature`` (None: it has none), and their folder if they are on this disk.

    ``detached`` is another file with its signature, which counts instead.
    """

    files: Mapping[str, Blob]
    signature: bytes | None
    folder: Path | None = None
    detached: Path | None = None


def check_signatures(
    ref: AdapterRef,
    required: "Sequence[RequiredSignature]",
    contents: Contents,
    select: Select,
    *,
    offline: bool = False,
) -> tuple[str, ...]:
    """Checks every ``required`` signature of ``ref``, and gives their signers.

    ``select`` gives those of a revision's files that a fetch downloads.

    Raises:
        Refused: it has no signature, none of the allowed signers made it, or its files are not the signed ones.
        MissingExtra, UsageError: the extra ``signing`` is not installed, or a key cannot be read.
        Offline, Unreachable: the trust root of Sigstore is needed and cannot be downloaded.
    """
    name, data = SIGNATURE, contents.signature
    if contents.detached is not None:
        from lora_cli.signing.trusted_files import read_trusted

        name, data = contents.detached.name, read_trusted(contents.detached, LARGEST_SIGNATURE)
    elif data is None and SIGNATURE in contents.files:
        raise Refused(f"{ref}: {RULE}: {SIGNATURE} has over {LARGEST_SIGNATURE} bytes", hint="it is no signature")
    if data is None:
        hint = f"ask its publisher for a {SIGNATURE}; if it has one now, fetch --upgrade locks it"
        raise Refused(f"{ref}: {RULE}: it has no {SIGNATURE}", hint=hint)
    try:
        from lora_cli.signing.verify import verify  # model-signing
    except ImportError as error:
        raise MissingExtra(RULE, "signing", error.name or "model-signing") from error
    signers = []
    for entry in required:
        try:
            signed = verify(data, entry, offline=offline)
            _check_files(ref, signed, contents, select)
        except Refused as error:
            hint = error.hint or "do not use these files: ask their publisher which ones were signed"
            raise Refused(f"{ref}: {RULE}: {name}: {error.message}", hint=hint) from error
        signers.append(signed.by)
    return tuple(dict.fromkeys(signers))


def _check_files(ref: AdapterRef, signed: "SignedFiles", contents: Contents, select: Select) -> None:
    """Checks that the files are those that were signed; raises ``Refused``.

    What the signature has as sha256 of whole files needs no read.
    """
    paths = [path for path in contents.files if path != SIGNATURE]
    if signed.is_sha256_of_files:
        found: Mapping[str, str] = {path: f"sha256:{contents.files[path].sha256}" for path in paths}
    elif contents.folder is None:
        how = f"{signed.serialization['hash_type']} of {signed.serialization['method']}"
        raise Refused(f"its hashes are {how}, which need all bytes", hint="fetch the adapter first")
    else:
        from lora_cli.signing.verify import hash_again  # model-signing

        found = hash_again(signed, contents.folder, paths)
    theirs = {signed.path_of(resource) for resource in signed.hashes}
    differing = {
        signed.path_of(resource)
        for resource in signed.hashes.keys() | found.keys()
        if signed.hashes.get(resource) != found.get(resource)
    }
    listed = Revision(ref, "", tuple(RemoteFile(path, None) for path in sorted(theirs)))
    try:
        wanted = {file.path for file in select(listed)} - {SIGNATURE}
    except LoraCliError:
        wanted = theirs
    differences = {
        "changed since": sorted(differing & theirs.intersection(paths)),
        "signed, but missing": sorted(wanted - set(paths)),
        "not signed": [path for path in paths if path not in theirs | GIT_FILES and not path.startswith(GIT_FOLDERS)],
    }
    if any(differences.values()):
        raise Refused("; ".join(f"{what}: {names(some)}" for what, some in differences.items() if some))
