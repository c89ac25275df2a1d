"""Pickles among the files next to an adapter's weights: known by their first bytes, and by their names in any case.

A file that is called as pickles are must be one that a trainer writes, or none. In any other file, and in archives and
compressed files, only what runs something is wrong: an archive of photographs is ignored.
"""

from collections.abc import Iterable

from lora_cli.core.pickles.machine import ReadBudget, can_begin
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import FormatError, TooLarge, UnsafePickle
from lora_cli.reading.byte_ranges import read_range
from lora_cli.sources import Source

NAMES = frozenset(
    (
        *("bin", "pt", "pth", "ckpt", "th", "torch", "distcp", "metadata"),
        *("pkl", "pickle", "p", "pk", "pckl", "pcl", "dill", "sav", "joblib", "jbl", "cpkl"),
        *("npy", "npz", "nemo"),
    )
)
"""How the names of pickles, and of what holds some, end: what is given to ``torch.load``, ``pickle.load`` and kin."""

COMPRESSED = frozenset(("gz", "z", "bz2", "xz", "lzma", "lz4", "zst"))
"""How names go on where such a file is compressed."""

MOST_PICKLES = 64
"""Files so called that are read: a trainer's checkpoint has five, and one more for each process."""

MOST_OTHERS = 2000
"""Files of other names whose first bytes are read."""

HOLDERS = b"P\x1f\x5d\x78BZ\xfd\x93"
"""First bytes of what may hold one: zip, gzip, lzma, zlib, bzip2, joblib's old form, xz, arrays of numpy."""

TAR, TAR_AT = b"ustar", 257
"""How a tar file is known, and where."""

START = TAR_AT + len(TAR)


def is_tar(head: bytes) -> bool:
    """Whether a file that begins so is a tar file."""
    return head.startswith(TAR, TAR_AT)


def is_called_pickle(path: str) -> bool:
    """Whether a file is called as pickles are, in capitals or small letters, compressed or not."""
    ends = path.rpartition("/")[2].lower().split(".")[1:]
    while ends and ends[-1] in COMPRESSED:
        ends.pop()
    return bool(ends) and ends[-1] in NAMES


def look_through(
    source: Source, revision: Revision, files: Iterable[RemoteFile], *, here: bool
) -> tuple[dict[str, str], str]:
    """What is wrong with each pickle among ``files``, or nothing; and what was not looked at, in words.

    ``here`` says that these are on this disk, so that any of them can be looked at.

    All of them share one ``ReadBudget``. What it does not reach is wrong where it is called a pickle, or begins as one.

    Raises:
        LoraCliError: what the source raises.
    """
    budget = ReadBudget()
    found: dict[str, str] = {}
    left: list[str] = []
    pickles = others = 0
    for file in files:
        named = is_called_pickle(file.path)
        pickles, others = pickles + named, others + (not named)
        if not named and not here:
            continue
        too_many = pickles > MOST_PICKLES if named else others > MOST_OTHERS
        if file.size is None or too_many:
            left.append(file.path)
            continue
        start = read_range(source, revision, file, 0, START) if not named else b""
        if not named and not _is_suspect(start):
            continue
        from lora_cli.reading.pickle_contents import is_container, look
        from lora_cli.reading.torch_pickle import opened

        try:
            with opened(source, revision, file, budget) as readable:
                if look(readable, named=named):
                    found[file.path] = ""
        except FormatError as error:
            # What is not called a pickle is wrong where it runs something, or begins as one and is too large for one.
            is_too_large = isinstance(error, TooLarge)
            if named or isinstance(error, UnsafePickle) or (is_too_large and not is_container(start)):
                found[file.path] = error.reason
            elif is_too_large:
                left.append(file.path)
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return found, f"{left[0]}{more} may contain pickles and were not fully checked" if left else ""


def _is_suspect(start: bytes) -> bool:
    """Whether a file of any other name begins as a pickle may, or as what may hold one."""
    return bool(start) and (can_begin(start[:1]) or start[:1] in HOLDERS or is_tar(start))
