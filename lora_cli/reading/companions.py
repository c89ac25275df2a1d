"""The small files next to an adapter's weights → ``Companions`` and ``Card``, within bounds; nothing of them is run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from lora_cli.core import parse
from lora_cli.core.companions import CARD_FILE, Card, Companions
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.core.text import shown
from lora_cli.errors import FormatError, TooLarge
from lora_cli.reading.adapter import read_at_once, weights_of
from lora_cli.reading.byte_ranges import check_stand_in, read_beginning
from lora_cli.reading.pickle_files import look_through
from lora_cli.sources import Source

HERE_CAP = 8 << 20
"""Bytes of all such files on this disk: the added tokens of large vocabularies take some megabytes."""

AFAR_CAP = 32 << 10
"""Bytes of one remote file: an adapter is checked from afar within a few kilobytes."""

CARD_AFAR_CAP, CARD_HERE_CAP = 8 << 10, 64 << 10
"""Bytes of a model card: the front matter of nearly every one, and what tools write behind it."""

MOST_FILES = 64
"""Such files that are read: a tokenizer has five, and a template or two more."""

TOKENIZER_CONFIG = "tokenizer_config.json"
ADDED_TOKENS = "added_tokens.json"
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "processor_config.json")
CODE_FILES = ("config.json", "preprocessor_config.json", "generation_config.json")
"""Configs that transformers reads next to an adapter, and that may name classes to import."""
CODE_FIELDS = ("auto_map", "custom_pipelines", "custom_generate")
MORE_TEMPLATES = "additional_chat_templates/"


def read_companions(source: Source, revision: Revision, *, here: bool, threads: int = 1) -> Companions:
    """What is next to the weights of ``revision``; with ``here`` its files are on this disk.

    Of a remote one ``threads`` files are read at once.

    What is wrong with one of the files raises nothing: it is in ``unread``.

    Raises:
        LoraCliError: what the source raises.
    """
    templates: dict[str, str] = {}
    code: dict[str, str] = {}
    unread: dict[str, str] = {}
    added_tokens: Mapping[str, int] | None = None
    files, beyond = _within(revision, here=here)
    unread |= dict.fromkeys(beyond, f"is over the limit of {HERE_CAP} bytes in {MOST_FILES} files")
    for file, text in zip(files, _texts(source, revision, files, here=here, threads=threads), strict=True):
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
    weights = weights_of(revision)
    others = (file for file in revision.files if file != weights and not file.defect)
    pickles, left = look_through(source, revision, others, here=here)
    return Companions(templates, code, added_tokens, unread, beyond, pickles, left)


def _within(revision: Revision, *, here: bool) -> tuple[list[RemoteFile], list[str]]:
    """The files to read, and the paths of those for which there are too many bytes, or too many files, before them."""
    files: list[RemoteFile] = []
    beyond: list[str] = []
    left = HERE_CAP
    for file in (file for file in revision.files if _wanted(file)):
        size = file.size or 0 if here and not file.defect else 0
        if len(files) == MOST_FILES or size > left:
            beyond.append(file.path)
        else:
            files.append(file)
            left -= size
    return files, beyond


def _texts(
    source: Source, revision: Revision, files: Sequence[RemoteFile], *, here: bool, threads: int
) -> Iterable[bytes | FormatError]:
    """Each file's text, or what is wrong with it; of files on this disk one is in memory at a time."""

    def text(file: RemoteFile) -> bytes | FormatError:
        try:
            return _text(source, revision, file, HERE_CAP if here else AFAR_CAP)
        except FormatError as error:
            return error

    return map(text, files) if here else read_at_once(threads, *(partial(text, file) for file in files))


def _wanted(file: RemoteFile) -> bool:
    if file.path.startswith(MORE_TEMPLATES) and file.path.endswith(".jinja"):
        return True
    return file.path in (TOKENIZER_CONFIG, ADDED_TOKENS, *TEMPLATE_FILES, *CODE_FILES)


def _text(source: Source, revision: Revision, file: RemoteFile, most: int) -> bytes:
    if not file.defect and (file.size or 0) > most:
        raise FormatError(f"has {file.size} bytes, over the limit of {most}", where=file.path)
    text = read_beginning(source, revision, file, most + 1)
    if len(text) > most:
        raise FormatError(f"is over the limit of {most} bytes", where=file.path)
    return text


def _templates(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """A template, or a list of named ones, as tokenizers of transformers have it."""
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


def read_card(source: Source, revision: Revision, *, here: bool) -> Card | None:
    """The card of the adapter at ``revision``, None if there is none; with ``here`` its files are on this disk.

    What is wrong with it raises nothing: it is in ``error``.

    Raises:
        LoraCliError: what the source raises.
    """
    from lora_cli.documents.model_card import parse_card

    file = revision.file(CARD_FILE)
    if file is None:
        return None
    if file.defect:
        return Card(error=f"{file.path}: {file.defect}")
    cap = CARD_HERE_CAP if here else CARD_AFAR_CAP
    data = read_beginning(source, revision, file, cap)
    try:
        check_stand_in(data, file)
    except FormatError as error:
        return Card(error=f"{file.path} {error.reason}")
    return parse_card(data, whole=len(data) < cap or len(data) == file.size, file=file.path)
