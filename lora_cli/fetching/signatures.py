"""Check the signatures that policies require: who signed, and that exactly the signed files are there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.core.adapter_files import LARGEST_SIGNATURE, SIGNATURE
from lora_cli.core.reference import AdapterRef
from lora_cli.core.request import Selection
from lora_cli.core.snapshot import Blob, RemoteFile, Revision
from lora_cli.core.text import names
from lora_cli.errors import LoraCliError, MissingExtra, Refused
from lora_cli.fetching.file_selection import select_files

if TYPE_CHECKING:
    from lora_cli.documents.policy import RequiredSignature
    from lora_cli.signing.verify import SignedFiles

RULE = "policy require_signature"
GIT_FILES = frozenset({".gitattributes", ".gitignore"})
GIT_FOLDERS = (".git/", ".github/")
"""What model-signing leaves out of each signature. Other files that a signature leaves out are not accepted."""


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
    selection: Selection,
    *,
    offline: bool = False,
) -> tuple[str, ...]:
    """Checks every ``required`` signature of ``ref``, and gives their signers.

    ``selection`` is what was fetched of its files.

    Raises:
        Refused: it has no signature, none of the allowed signers made it, or its files are not the signed ones.
        MissingExtra, UsageError: the extra ``signing`` is not installed, or a key cannot be read.
        Offline, Unreachable: the trust root of Sigstore is needed and cannot be downloaded.
    """
    unsigned = contents.signature is None and contents.detached is None
    if unsigned and SIGNATURE in contents.files:
        raise Refused(f"{ref}: {RULE}: {SIGNATURE} has over {LARGEST_SIGNATURE} bytes", hint="it is no signature")
    if unsigned:
        hint = f"ask its publisher for a {SIGNATURE}; if it has one now, fetch --upgrade locks it"
        raise Refused(f"{ref}: {RULE}: it has no {SIGNATURE}", hint=hint)
    try:
        from lora_cli.signing.verify import verify  # model-signing
    except ImportError as error:
        raise MissingExtra(RULE, "signing", error.name or "model-signing") from error
    name, data = _signature(contents)
    signers = []
    for entry in required:
        try:
            signed = verify(data, entry, offline=offline)
            _check_files(ref, signed, contents, selection)
        except Refused as error:
            hint = error.hint or "do not use these files: ask their publisher which ones were signed"
            raise Refused(f"{ref}: {RULE}: {name}: {error.message}", hint=hint) from error
        signers.append(signed.by)
    return tuple(dict.fromkeys(signers))


def _signature(contents: Contents) -> tuple[str, bytes]:
    """The signature that counts, with its name; there is one."""
    if contents.detached is not None:
        from lora_cli.signing.trusted_files import read_trusted

        return contents.detached.name, read_trusted(contents.detached, LARGEST_SIGNATURE)
    assert contents.signature is not None
    return SIGNATURE, contents.signature


def _check_files(ref: AdapterRef, signed: "SignedFiles", contents: Contents, selection: Selection) -> None:
    """Checks that the files are those that were signed.

    Raises:
        Refused: some are not.
    """
    paths = [path for path in contents.files if path != SIGNATURE]
    found = _hashes(signed, contents, paths)
    theirs = {signed.path_of(resource) for resource in signed.hashes}
    differing = {
        signed.path_of(resource)
        for resource in signed.hashes.keys() | found.keys()
        if signed.hashes.get(resource) != found.get(resource)
    }
    differences = {
        "changed since": sorted(differing & theirs.intersection(paths)),
        "signed, but missing": sorted(_selected(ref, theirs, selection) - set(paths)),
        "not signed": [path for path in paths if path not in theirs | GIT_FILES and not path.startswith(GIT_FOLDERS)],
    }
    if any(differences.values()):
        raise Refused("; ".join(f"{what}: {names(found)}" for what, found in differences.items() if found))


def _hashes(signed: "SignedFiles", contents: Contents, paths: list[str]) -> Mapping[str, str]:
    """The hashes of ``paths`` as the signature has them; only sha256 of whole files needs no read."""
    if signed.is_sha256_of_files:
        return {path: f"sha256:{contents.files[path].sha256}" for path in paths}
    if contents.folder is None:
        how = f"{signed.serialization['hash_type']} of {signed.serialization['method']}"
        raise Refused(f"its hashes are {how}, which need all bytes", hint="fetch the adapter first")
    from lora_cli.signing.verify import hash_again  # model-signing

    return hash_again(signed, contents.folder, paths)


def _selected(ref: AdapterRef, paths: set[str], selection: Selection) -> set[str]:
    """Those of the signed paths that a fetch would download, so that they must be there."""
    listed = Revision(ref, "", tuple(RemoteFile(path, None) for path in sorted(paths)))
    try:
        return {file.path for file in select_files(listed, selection)} - {SIGNATURE}
    except LoraCliError:
        return paths
