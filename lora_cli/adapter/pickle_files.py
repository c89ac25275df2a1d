"""Pickles among the files next to an adapter's weights, recognised by their first bytes or their names.

A file with a pickle's name must be one that a trainer writes. In other files, archives and compressed files, only
pickles that execute something are errors: an archive of photographs is ignored.
"""

from collections.abc import Iterable

from lora_cli.adapter.byte_ranges import read_range
from lora_cli.adapter.pickle_machine import ReadBudget, can_begin
from lora_cli.errors import FormatError, TooLarge, UnsafePickle
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.sources.files import Files

NAMES = frozenset(
    (
        *("bin", "pt", "pth", "ckpt", "th", "torch", "distcp", "metadata"),
        *("pkl", "pickle", "p", "pk", "pckl", "pcl", "dill", "sav", "joblib", "jbl", "cpkl"),
        *("npy", "npz", "nemo"),
    )
)
"""File extensions of pickles and their containers: files for ``torch.load``, ``pickle.load`` and the like."""

COMPRESSED = frozenset(("gz", "z", "bz2", "xz", "lzma", "lz4", "zst"))
"""Extensions that are added when such a file is compressed."""

MOST_PICKLES = 64
"""Files with such names that are read: a trainer's checkpoint has five, and one more for each process."""

MOST_OTHERS = 2000
"""Files with other names whose first bytes are read."""

HOLDERS = b"P\x1f\x5d\x78BZ\xfd\x93"
"""First bytes of possible containers: zip, gzip, lzma, zlib, bzip2, joblib's old form, xz, numpy arrays."""

TAR, TAR_AT = b"ustar", 257
"""The signature of a tar file, and its offset."""

START = TAR_AT + len(TAR)


def is_tar(head: bytes) -> bool:
    """Whether a file with these first bytes is a tar file."""
    return head.startswith(TAR, TAR_AT)


def has_pickle_name(path: str) -> bool:
    """Whether a file has the extension of a pickle in any case, compressed or not."""
    ends = path.rpartition("/")[2].lower().split(".")[1:]
    while ends and ends[-1] in COMPRESSED:
        ends.pop()
    return bool(ends) and ends[-1] in NAMES


def scan_pickles(files: Files, some: Iterable[RemoteFile]) -> tuple[dict[str, str], str]:
    """Path → error, or "", of each pickle among ``some`` of the ``files``; and what was not checked, in words.

    On this disk those with other names are checked, too. All files share one ``ReadBudget``. Files
    beyond its limit are errors if they have a pickle's name, or start as one.

    Raises:
        LoraCliError: what the source raises.
    """
    budget = ReadBudget()
    found: dict[str, str] = {}
    left: list[str] = []
    pickles = others = 0
    for file in some:
        named = has_pickle_name(file.path)
        pickles, others = pickles + named, others + (not named)
        if not named and not files.on_disk:
            continue
        if named and pickles > MOST_PICKLES:
            found[file.path] = f"is not checked: the folder has over {MOST_PICKLES} files with a pickle's name"
            continue
        if file.size is None or others > MOST_OTHERS:
            left.append(file.path)
            continue
        start = read_range(files, file, 0, START) if not named else b""
        if not named and not _is_suspect(start):
            continue
        from lora_cli.adapter.pickle_contents import contains_pickle, is_container
        from lora_cli.adapter.torch_pickle import open_ranges

        try:
            with open_ranges(files, file, budget) as readable:
                if contains_pickle(readable, named=named):
                    found[file.path] = ""
        except FormatError as error:
            # Without a pickle's name it is an error only if it executes something, or is a pickle over the limit.
            is_too_large = isinstance(error, TooLarge)
            if named or isinstance(error, UnsafePickle) or (is_too_large and not is_container(start)):
                found[file.path] = error.reason
            elif is_too_large:
                left.append(file.path)
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return found, f"{left[0]}{more} may contain pickles and were not fully checked" if left else ""


def _is_suspect(start: bytes) -> bool:
    """Whether the first bytes may be those of a pickle or of a container."""
    return bool(start) and (can_begin(start[:1]) or start[:1] in HOLDERS or is_tar(start))
