"""The small files next to an adapter's weights → ``Companions`` and ``Card``, within limits; no code is run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from lora_cli import parse
from lora_cli.adapter.byte_ranges import check_stand_in, read_beginning
from lora_cli.adapter.reading import call_in_threads, weights_file
from lora_cli.documents.model_card import CARD_FILE, Card
from lora_cli.errors import FormatError, TooLarge
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.sources.files import Files
from lora_cli.text import shown

LOCAL_CAP = 8 << 20
"""Bytes of all such local files: the added tokens of large vocabularies have some megabytes."""

REMOTE_CAP = 32 << 10
"""Bytes of one remote file: remote adapters are checked with a few kilobytes."""

CARD_REMOTE_CAP, CARD_LOCAL_CAP = 8 << 10, 64 << 10
"""Bytes of a model card: enough for the front matter of nearly all."""

MOST_FILES = 64
"""Such files that are read: a tokenizer has five, and one or two templates."""

TOKENIZER_CONFIG = "tokenizer_config.json"
ADDED_TOKENS = "added_tokens.json"
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "processor_config.json")
CODE_FILES = ("config.json", "preprocessor_config.json", "generation_config.json")
"""Configs that transformers reads next to an adapter, and that may name classes to import."""
CODE_FIELDS = ("auto_map", "custom_pipelines", "custom_generate")
MORE_TEMPLATES = "additional_chat_templates/"

PICKLES = (
    *(".bin", ".pt", ".pth", ".ckpt", ".th", ".torch"),
    *(".pkl", ".pickle", ".p", ".pk", ".pckl", ".pcl", ".cpkl", ".dill", ".sav"),
)
"""Endings of files for ``torch.load``, ``pickle.load`` and the like."""

CONTAINERS = (".npy", ".npz", ".nemo", ".joblib", ".jbl", ".distcp", ".metadata")
COMPRESSED = (".gz", ".z", ".bz2", ".xz", ".lzma", ".lz4", ".zst", ".tar")
"""Endings of files that may contain pickles, which are not looked for; the second follow a pickle's ending."""


@dataclass(frozen=True, slots=True)
class Companions:
    """Read, and never rendered, imported or run.

    ``templates`` maps where a chat template is (``"tokenizer_config.json: chat_template"``) to its text, ``code`` where
    classes are named that a loader would import to what is named there. ``added_tokens`` are the tokens of
    ``added_tokens.json`` with their ids, None without that file. ``unread`` says of a file why it could not be read,
    ``beyond`` are those of which there is more than any adapter has. ``pickles`` maps files with a pickle's name to
    what is wrong with them; ``pickles_left`` says which could not be looked into.
    """

    templates: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    added_tokens: Mapping[str, int] | None = None
    unread: Mapping[str, str] = field(default_factory=dict)
    beyond: Sequence[str] = ()
    pickles: Mapping[str, str] = field(default_factory=dict)
    pickles_left: str = ""


def read_companions(files: Files, *, threads: int = 1) -> Companions:
    """The files next to an adapter's weights.

    Away from this disk ``threads`` are read at once. Errors in a file are not raised: they are in ``unread``.

    Raises:
        LoraCliError: what the source raises.
    """
    templates: dict[str, str] = {}
    code: dict[str, str] = {}
    unread: dict[str, str] = {}
    added_tokens: Mapping[str, int] | None = None
    wanted, beyond = _within(files)
    unread |= dict.fromkeys(beyond, f"is over the limit of {LOCAL_CAP} bytes in {MOST_FILES} files")
    for file, text in zip(wanted, _texts(files, wanted, threads=threads), strict=True):
        try:
            if isinstance(text, FormatError):
                raise text
            if file.path == ADDED_TOKENS:
                added_tokens = parse.map_of(parse.integer)(parse.json_value(text, file.path), file.path)
            elif file.path.endswith(".jinja"):
                templates[file.path] = text.decode()
            else:
                check_stand_in(text, file)
                fields = parse.json_object(text, file.path)
                templates |= dict(_templates(fields.get("chat_template"), f"{file.path}: chat_template"))
                named = {name: shown(fields[name]) for name in CODE_FIELDS if fields.get(name)}
                code |= {f"{file.path}: {name}": classes for name, classes in named.items()}
        except UnicodeDecodeError:
            unread[file.path] = "is not text in UTF-8"
        except FormatError as error:
            unread[file.path] = error.reason
            beyond += [file.path] if isinstance(error, TooLarge) else []
    return Companions(templates, code, added_tokens, unread, beyond, *_pickles(files))


def _pickles(files: Files) -> tuple[dict[str, str], str]:
    """What is wrong with the files with a pickle's name, by path; and which could not be looked into, in words."""
    weights, steps = weights_file(files), count()
    named = [file for file in files if has_pickle_name(file.path) and file != weights and not file.defect]
    left = [file.path for file in named if file.path.lower().endswith((*COMPRESSED, *CONTAINERS)) or file.size is None]
    named = [file for file in named if file.path not in left]
    beyond = f"is not checked: the folder has over {MOST_FILES} files with a pickle's name"
    wrong = {file.path: beyond for file in named[MOST_FILES:]}
    for file in named[:MOST_FILES]:
        from lora_cli.adapter.torchfile import check_pickle

        try:
            if not check_pickle(files, file, steps):
                left.append(file.path)
        except FormatError as error:
            wrong[file.path] = error.reason
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return wrong, f"{left[0]}{more} may contain pickles, which are not looked for in such files" if left else ""


def has_pickle_name(path: str) -> bool:
    """Whether a file has the ending of a pickle, compressed or not."""
    name = path.lower()
    while name.endswith(COMPRESSED):
        name = name.rpartition(".")[0]
    return name.endswith((*PICKLES, *CONTAINERS))


def _within(files: Files) -> tuple[list[RemoteFile], list[str]]:
    """The files to read, and the paths of those beyond the limits of bytes and files."""
    wanted: list[RemoteFile] = []
    beyond: list[str] = []
    left = LOCAL_CAP
    for file in (file for file in files if _wanted(file)):
        size = file.size or 0 if files.on_disk and not file.defect else 0
        if len(wanted) == MOST_FILES or size > left:
            beyond.append(file.path)
        else:
            wanted.append(file)
            left -= size
    return wanted, beyond


def _texts(files: Files, wanted: Sequence[RemoteFile], *, threads: int) -> Iterable[bytes | FormatError]:
    """Each file's text or error; of local files, one at a time is in memory."""

    def text(file: RemoteFile) -> bytes | FormatError:
        try:
            return _text(files, file, LOCAL_CAP if files.on_disk else REMOTE_CAP)
        except FormatError as error:
            return error

    return map(text, wanted) if files.on_disk else call_in_threads(threads, *(partial(text, file) for file in wanted))


def _wanted(file: RemoteFile) -> bool:
    if file.path.startswith(MORE_TEMPLATES) and file.path.endswith(".jinja"):
        return True
    return file.path in (TOKENIZER_CONFIG, ADDED_TOKENS, *TEMPLATE_FILES, *CODE_FILES)


def _text(files: Files, file: RemoteFile, most: int) -> bytes:
    if not file.defect and (file.size or 0) > most:
        raise FormatError(f"has {file.size} bytes, over the limit of {most}", where=file.path)
    text = read_beginning(files, file, most + 1)
    if len(text) > most:
        raise FormatError(f"is over the limit of {most} bytes", where=file.path)
    return text


def _templates(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Location and text of each chat template: a string, or a list or mapping of named ones (transformers)."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, Mapping) and isinstance(item.get("template"), str):
                yield f"{where}[{index}]", item["template"]
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if isinstance(item, str):
                yield f"{where}.{name}", item


def read_card(files: Files) -> Card | None:
    """The model card, None if there is none.

    Errors in it are not raised: they are in ``error``.

    Raises:
        LoraCliError: what the source raises.
    """
    from lora_cli.documents.model_card import parse_card

    file = files.file(CARD_FILE)
    if file is None:
        return None
    if file.defect:
        return Card(error=f"{file.path}: {file.defect}")
    cap = CARD_LOCAL_CAP if files.on_disk else CARD_REMOTE_CAP
    data = read_beginning(files, file, cap)
    try:
        check_stand_in(data, file)
    except FormatError as error:
        return Card(error=f"{file.path} {error.reason}")
    return parse_card(data, whole=len(data) < cap or len(data) == file.size, file=file.path)
