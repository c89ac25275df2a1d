"""YAML text → PyYAML's nodes, which know their lines, within bounds; and the plain values that the nodes stand for.

Every bound is checked over the events of the parser, before a node is built. Nothing is constructed from tags, words
are never guessed (``no`` is not a string), and aliases count as often as they are used.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from lora_cli.errors import UsageError

TEXT_CAP = 16 * 1024 * 1024
"""Bytes of one document."""

NODES = 250_000
"""Values of one document, aliases followed: each key counts as one, and each value for every ``LETTERS`` begun."""

LETTERS = 128

DEPTH = 16
KEY_CAP = 200
KEYS = 10_000
"""Keys of one mapping."""

SPLIT = "split it into several files"
QUOTE = "indent with spaces; quote a value that contains ': ' or ' #', or that starts with * & @ %"

Path = tuple[str | int, ...]
"""Keys and positions from the root of a document: ``("adapters", 3, "source")``."""

# No implicit types: what an unquoted word means is decided by ``_resolved``.
_LOADER = yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader

_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})", re.ASCII)
_FLOAT = re.compile(r"[-+]?([0-9]{1,17}\.[0-9]{0,17}|\.[0-9]{1,17})([eE][-+]?[0-9]{1,2})?", re.ASCII)
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {
    form: value
    for word, value in {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.items()
    for form in (word, word.capitalize(), word.upper())
}


def compose(text: str, file: str) -> yaml.Node:
    """The root of the one YAML (or JSON) document in ``text``. ``file`` is what errors call it.

    Raises:
        UsageError: not YAML; empty; more than one document; over a bound; a duplicate key; a key that is not a plain
            word; a tag; a merge key; an alias to what is not complete yet.
    """
    if len(text) > TEXT_CAP:
        raise UsageError(f"{file}: the document is over {TEXT_CAP} characters long", hint=SPLIT)
    try:
        _Bounds(file).check(yaml.parse(text, Loader=_LOADER))
        return yaml.compose(text, Loader=_LOADER)  # type: ignore[return-value]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UsageError(f"{file}:{line}: this is not YAML: {error.problem or error.context}", hint=QUOTE) from error
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        message = f"{file}:1: this is not YAML: it contains an invalid character"
        raise UsageError(message, hint="save the file as UTF-8 text") from error


@dataclass(frozen=True, slots=True)
class Number:
    """An unquoted number that is no integer, as it is written: ``0.30`` stays ``0.30``."""

    text: str


def plain(node: yaml.Node) -> Any:
    """The value as JSON would have it: dicts, lists, strings, integers, booleans, None; and a ``Number``."""
    if isinstance(node, yaml.MappingNode):
        return {key.value: plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [plain(item) for item in node.value]
    assert isinstance(node, yaml.ScalarNode)
    return node.value if node.style else _resolved(node.value)


@dataclass(frozen=True, slots=True)
class YamlPlaces:
    """Where the values of a document are, by their paths, as far as it has them; nowhere without a ``root``."""

    root: yaml.Node | None

    def line(self, path: Path, *, key: bool = False) -> int:
        """The line of a value, or of its ``key``; the first one is 1, and 0 says that it is not known."""
        node = self._find(path)[not key]
        return _line(node) if node is not None else 0

    def written(self, path: Path) -> str:
        """A value as it is written, at most 60 characters."""
        node = self._find(path)[1]
        return node.value[:60] if isinstance(node, yaml.ScalarNode) else ""

    def _find(self, path: Path) -> tuple[yaml.Node | None, yaml.Node | None]:
        """The key of a value and the value; of a list's member both are that itself."""
        key = node = self.root
        for part in path:
            if isinstance(node, yaml.MappingNode):
                key, node = next((pair for pair in node.value if pair[0].value == part), (node, node))
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                key = node = node.value[part]
        return key, node


def _line(node: yaml.Node | yaml.Event) -> int:
    return int(node.start_mark.line) + 1 if node.start_mark else 1


def in_words(path: Path) -> str:
    """``adapters[3].source``; empty for the root."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _resolved(text: str) -> bool | int | Number | str | None:
    """An unquoted word by YAML 1.2, and the booleans of 1.1 too, so that ``no`` is never taken for a string."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text)
    return Number(text) if _FLOAT.fullmatch(text) else text


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come yet. ``size`` counts its nodes so far; ``keys`` has the line of each key."""

    mapping: bool
    anchor: str | None
    size: int = 1
    keys: dict[str, int] = field(default_factory=dict)
    wants_key: bool = False


class _Bounds:
    """Checks the events of one document, one by one, without recursion."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.stack: list[_Open] = []
        self.sizes: dict[str, int] = {}
        self.documents = 0

    def check(self, events: Iterable[yaml.Event]) -> None:
        """Raises ``UsageError`` at the first event that breaks a bound, or if there is no document."""
        for event in events:
            if isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._open(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                done = self.stack.pop()
                self._complete(event, done.size, done.anchor)
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
            elif isinstance(event, yaml.DocumentStartEvent):
                self.documents += 1
                if self.documents > 1:
                    self._refuse(
                        event, "a second document starts here; a file can contain only one", "use one file per document"
                    )
        if not self.documents:
            hint = "start with apiVersion: lora-cli/v1 and its kind"
            raise UsageError(f"{self.file}:1: the document is empty", hint=hint)

    def _refuse(self, event: yaml.Event, message: str, hint: str) -> NoReturn:
        raise UsageError(f"{self.file}:{_line(event)}: {message}", hint=hint)

    @property
    def _wants_key(self) -> bool:
        return bool(self.stack) and self.stack[-1].wants_key

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        self._no_tag(event)
        if self._wants_key:
            self._key(event)
        else:
            self._complete(event, 1 + len(event.value) // LETTERS, event.anchor)

    def _key(self, event: yaml.ScalarEvent) -> None:
        parent, key = self.stack[-1], event.value
        if len(key) > KEY_CAP:
            self._refuse(event, f"a key of over {KEY_CAP} characters", QUOTE)
        if key == "<<" and event.implicit[0]:
            self._refuse(
                event, "merge keys (<<) are not supported", "repeat the keys, or use an alias for the whole value"
            )
        if key in parent.keys:
            message = f"{key}: duplicate key (first in line {parent.keys[key]})"
            self._refuse(event, message, "remove one of them")
        if len(parent.keys) >= KEYS:
            self._refuse(event, f"a mapping of over {KEYS} keys", SPLIT)
        parent.keys[key] = _line(event)
        parent.size += 1
        parent.wants_key = False

    def _open(self, event: yaml.CollectionStartEvent) -> None:
        self._no_tag(event)
        if self._wants_key:
            self._refuse(
                event,
                "a key must be a single value, not a list or a mapping",
                'quote a value that contains braces: "{{ name }}"',
            )
        if len(self.stack) >= DEPTH:
            self._refuse(event, f"nested deeper than {DEPTH} levels", QUOTE)
        mapping = isinstance(event, yaml.MappingStartEvent)
        self.stack.append(_Open(mapping, event.anchor, wants_key=mapping))

    def _alias(self, event: yaml.AliasEvent) -> None:
        if self._wants_key:
            self._refuse(event, "a key must be a single value, not an alias", "write the value itself")
        if event.anchor not in self.sizes:
            alias = f"*{str(event.anchor)[:KEY_CAP]}"
            message = f"the alias {alias} does not refer to an earlier, complete anchor"
            self._refuse(event, message, f'quote a glob: "{alias}"')
        self._complete(event, self.sizes[event.anchor], None)

    def _complete(self, event: yaml.Event, size: int, anchor: str | None) -> None:
        """A value of ``size`` nodes is complete: it counts for the collection that it is in."""
        if anchor is not None:
            if anchor in self.sizes:
                name = f"&{anchor[:KEY_CAP]}"
                self._refuse(event, f"duplicate anchor {name}", "use a different name for each anchor")
            self.sizes[anchor] = size
        if not self.stack:
            return
        parent = self.stack[-1]
        parent.size += size
        parent.wants_key = parent.mapping
        if parent.size > NODES:
            self._refuse(event, f"more than {NODES} values, including aliases", SPLIT)

    def _no_tag(self, event: Any) -> None:
        if event.tag is not None:
            self._refuse(event, f"the tag {event.tag[:KEY_CAP]} is not supported", "write the value without a tag")
