"""The small files beside an adapter's weights → ``Companions``, within bounds and without running anything."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from lora_cli.core import parse
from lora_cli.core.companions import Companions
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import FormatError
from lora_cli.read.adapter import weights_of
from lora_cli.read.ranges import read_range
from lora_cli.sources import Source

HERE_CAP = 16 << 20
"""Bytes of one file on this disk: the added tokens of large vocabularies take some megabytes."""

AFAR_CAP = 32 << 10
"""Bytes of one remote file: an adapter is judged from afar within a few kilobytes."""

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
"""How the names of pickles end: what torch.load and pickle.load are given."""

MOST_PICKLES = 64
"""Pickles beside the weights that are read: a trainer's checkpoint has five, and one more for each process."""

TOKENIZER_CONFIG = "tokenizer_config.json"
ADDED_TOKENS = "added_tokens.json"
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "processor_config.json")
CODE_FILES = ("config.json", "preprocessor_config.json", "generation_config.json")
"""Configs that transformers reads beside an adapter, and that may name classes to import."""
CODE_FIELDS = ("auto_map", "custom_pipelines", "custom_generate")
MORE_TEMPLATES = "additional_chat_templates/"


def read_companions(source: Source, revision: Revision, *, here: bool, threads: int = 1) -> Companions:
    """What stands beside the weights of ``revision``; with ``here`` its files are on this disk.

    Of a remote one ``threads`` files are read at once.

    What is wrong with one of the files raises nothing: it stands in ``unread``.

    Raises:
        LoraCliError: what the source raises.
    """
    templates: dict[str, str] = {}
    code: dict[str, str] = {}
    unread: dict[str, str] = {}
    added_tokens: Mapping[str, int] | None = None
    files = [file for file in revision.files if _wanted(file)]
    for file, read in zip(files, _texts(source, revision, files, here=here, threads=threads), strict=True):
        try:
            text = read()
            if file.path == ADDED_TOKENS:
                added_tokens = parse.map_of(parse.integer)(parse.json_value(text, file.path), file.path)
            elif file.path.endswith(".jinja"):
                templates[file.path] = text.decode()
            else:
                fields = parse.json_object(text, file.path)
                templates |= dict(_templates(fields.get("chat_template"), f"{file.path}: chat_template"))
                named = {name: parse.shown(fields[name]) for name in CODE_FIELDS if fields.get(name)}
                code |= {f"{file.path}: {name}": classes for name, classes in named.items()}
        except UnicodeDecodeError:
            unread[file.path] = "is not text in UTF-8"
        except FormatError as error:
            unread[file.path] = error.reason
    return Companions(templates, code, added_tokens, unread, *_pickles(source, revision))


def _texts(
    source: Source, revision: Revision, files: Sequence[RemoteFile], *, here: bool, threads: int
) -> Iterable[Callable[[], bytes]]:
    """What gives each file's text, or raises what is wrong with it."""

    def text(file: RemoteFile) -> bytes:
        return _text(source, revision, file, HERE_CAP if here else AFAR_CAP)

    if here or threads == 1 or len(files) < 2:
        return [partial(text, file) for file in files]
    from lora_cli.sources.abreast import abreast

    def kept(file: RemoteFile) -> Callable[[], bytes]:
        try:
            read = text(file)
        except FormatError as error:
            return partial(_raise, error)
        return lambda: read

    return abreast(kept, files, threads)


def _raise(error: FormatError) -> bytes:
    raise error


def _pickles(source: Source, revision: Revision) -> tuple[dict[str, str], str]:
    """What is wrong with each pickle that is not the weights, and which were not looked at."""
    weights = weights_of(revision)
    found = [file for file in revision.files if file.path.endswith(PICKLED) and file != weights and not file.defect]
    if not found:
        return {}, ""
    from lora_cli.read.pickled import examine

    pickles: dict[str, str] = {}
    left = [file.path for file in found if file.size is None] + [file.path for file in found[MOST_PICKLES:]]
    for file in found[:MOST_PICKLES]:
        if file.size is not None:
            try:
                examine(source, revision, file)
                pickles[file.path] = ""
            except FormatError as error:
                pickles[file.path] = error.reason
    return pickles, f"{left[0]} and {len(left) - 1} more pickles were not looked at" if left else ""


def _wanted(file: RemoteFile) -> bool:
    if file.path.startswith(MORE_TEMPLATES) and file.path.endswith(".jinja"):
        return True
    return file.path in (TOKENIZER_CONFIG, ADDED_TOKENS, *TEMPLATE_FILES, *CODE_FILES)


def _text(source: Source, revision: Revision, file: RemoteFile, most: int) -> bytes:
    if file.defect:
        raise FormatError(file.defect, where=file.path)
    if file.size is not None and file.size > most:
        raise FormatError(f"has {file.size} bytes, and at most {most} are read here", where=file.path)
    text = read_range(source, revision, file, 0, most + 1 if file.size is None else file.size)
    if len(text) > most:
        raise FormatError(f"has more than the {most} bytes that are read here", where=file.path)
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
