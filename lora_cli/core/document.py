"""YAML text → nodes that know their line: the outer shape of manifests, locks and policies, bounded in every way.

Nothing is constructed from tags, words are never guessed (``no`` is not a string), and an alias is the node that it
points to: a document can neither run code nor grow beyond what was written times ``NODES``.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lora_cli.errors import UsageError

if TYPE_CHECKING:
    import yaml

TEXT_CAP = 8 * 1024 * 1024
NODES = 400_000
DEPTH = 16
KEY_CAP = 200

SPLIT = "split it into several files"
QUOTE = "indent with spaces; a value with ': ' or ' #' in it, or one that begins with * & @ %, is quoted"

# A path from the root, innermost first, so that ten thousand siblings share one.
Trail = tuple["Trail", str | int] | None
Scalar = None | bool | int | float | str

_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})", re.ASCII)
_FLOAT = re.compile(r"[-+]?([0-9]{1,17}\.[0-9]{0,17}|\.[0-9]{1,17})([eE][-+]?[0-9]{1,2})?", re.ASCII)
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {
    form: value
    for word, value in {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.items()
    for form in (word, word.capitalize(), word.upper())
}


@dataclass(frozen=True, slots=True)
class Node:
    """One value and where it stands. ``line`` counts from 1; ``text`` is a scalar as written, without its quotes.

    ``size`` is how many nodes it is with all aliases followed; never over ``NODES``. ``key_lines`` has the line of
    every key of ``entries``.
    """

    file: str
    line: int
    trail: Trail
    kind: Literal["mapping", "sequence", "scalar"]
    size: int
    scalar: Scalar = None
    text: str = ""
    entries: Mapping[str, "Node"] = field(default_factory=dict)
    key_lines: Mapping[str, int] = field(default_factory=dict)
    items: tuple["Node", ...] = ()

    @property
    def path(self) -> str:
        """Keys and positions from the root: ``adapters[3].source``; empty for the root."""
        parts: list[str] = []
        trail = self.trail
        while trail is not None:
            trail, key = trail
            parts.append(f"[{key}]" if isinstance(key, int) else f".{key}")
        return "".join(reversed(parts)).removeprefix(".")

    def plain(self) -> Any:
        """The value as JSON would have it: dicts, lists, strings, numbers, booleans, None."""
        if self.kind == "mapping":
            return {key: node.plain() for key, node in self.entries.items()}
        return [node.plain() for node in self.items] if self.kind == "sequence" else self.scalar


def wrong(node: Node, message: str, *, hint: str) -> UsageError:
    """The error for ``node``: file, line, the path of keys, what is wrong with it, and what to write instead."""
    where = f"{node.file}:{node.line}: "
    return UsageError(f"{where}{node.path}: {message}" if node.trail else f"{where}{message}", hint=hint)


def parse_document(text: str, file: str) -> Node:
    """The one YAML document in ``text``. ``file`` is what errors call it.

    Raises:
        UsageError: not YAML; empty; more than one document; over a bound; a duplicate key; a key that is not a plain
            word; a tag; a merge key; an alias to what is not complete yet.
    """
    if len(text) > TEXT_CAP:
        raise UsageError(f"{file}: a document of over {TEXT_CAP} characters is not read", hint=SPLIT)
    builder = _Builder(file)
    for event in _events(text, file):
        builder.take(event)
    if builder.root is None:
        raise UsageError(f"{file}:1: the document is empty", hint="begin with apiVersion: lora-cli/v1 and its kind")
    return builder.root


def _events(text: str, file: str) -> Iterator["yaml.Event"]:
    """PyYAML's events, from libyaml where PyYAML has it; its errors as ours."""
    import yaml

    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    try:
        yield from yaml.parse(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UsageError(f"{file}:{line}: this is not YAML: {error.problem or error.context}", hint=QUOTE) from error
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        message = f"{file}:1: this is not YAML: a character that may not stand in it"
        raise UsageError(message, hint="save the file as UTF-8 text") from error


class _Open:
    """A collection that is still being read."""

    def __init__(self, line: int, trail: Trail, anchor: str | None, *, mapping: bool) -> None:
        self.line, self.trail, self.anchor, self.mapping = line, trail, anchor, mapping
        self.entries: dict[str, Node] = {}
        self.key_lines: dict[str, int] = {}
        self.items: list[Node] = []
        self.key: str | None = None
        self.size = 1

    def child(self) -> Trail:
        """The trail of the value that comes next."""
        return (self.trail, self.key if self.mapping and self.key is not None else len(self.items))


class _Builder:
    """Takes events one by one, without recursion, and holds the tree as far as it is read."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.root: Node | None = None
        self.stack: list[_Open] = []
        self.anchors: dict[str, Node] = {}
        self.documents = 0

    def take(self, event: "yaml.Event") -> None:
        """One step."""
        name = type(event).__name__
        line = event.start_mark.line + 1 if event.start_mark else 1
        if name == "ScalarEvent":
            self._scalar(event, line)
        elif name in ("MappingStartEvent", "SequenceStartEvent"):
            self._open(event, line, mapping=name == "MappingStartEvent")
        elif name in ("MappingEndEvent", "SequenceEndEvent"):
            self._close()
        elif name == "AliasEvent":
            self._alias(event, line)
        elif name == "DocumentStartEvent":
            self.documents += 1
            if self.documents > 1:
                raise self._error(line, "a second document begins here; a file holds one", "write each into its file")

    def _error(self, line: int, message: str, hint: str) -> UsageError:
        return UsageError(f"{self.file}:{line}: {message}", hint=hint)

    def _wants_key(self) -> bool:
        return bool(self.stack) and self.stack[-1].mapping and self.stack[-1].key is None

    def _scalar(self, event: Any, line: int) -> None:
        if event.tag is not None:
            raise self._error(line, f"the tag {event.tag[:KEY_CAP]} is not read", "write the value without a tag")
        plain = event.implicit[0]
        if self._wants_key():
            self._key(event.value, line, plain=plain)
            return
        trail = self.stack[-1].child() if self.stack else None
        scalar = _resolved(event.value) if plain else event.value
        self._place(Node(self.file, line, trail, "scalar", 1, scalar, event.value), event.anchor, line)

    def _key(self, key: str, line: int, *, plain: bool) -> None:
        if len(key) > KEY_CAP:
            raise self._error(line, f"a key of over {KEY_CAP} characters", QUOTE)
        if plain and key == "<<":
            raise self._error(
                line, "merge keys (<<) are not read", "repeat the keys, or use an alias for the whole value"
            )
        parent = self.stack[-1]
        if key in parent.entries:
            first = parent.key_lines[key]
            raise self._error(line, f"{key}: the key stands twice (first in line {first})", "remove one of them")
        parent.key = key
        parent.key_lines[key] = line

    def _open(self, event: Any, line: int, *, mapping: bool) -> None:
        if event.tag is not None:
            raise self._error(line, f"the tag {event.tag[:KEY_CAP]} is not read", "write the value without a tag")
        if self._wants_key():
            raise self._error(
                line, "a key is one word, not a list or a mapping", 'quote a value with braces: "{{ name }}"'
            )
        if len(self.stack) >= DEPTH:
            raise self._error(line, f"nested deeper than {DEPTH} levels", QUOTE)
        trail = self.stack[-1].child() if self.stack else None
        self.stack.append(_Open(line, trail, event.anchor, mapping=mapping))

    def _close(self) -> None:
        done = self.stack.pop()
        kind: Literal["mapping", "sequence"] = "mapping" if done.mapping else "sequence"
        lines, items = done.key_lines, tuple(done.items)
        node = Node(
            self.file, done.line, done.trail, kind, done.size, entries=done.entries, key_lines=lines, items=items
        )
        self._place(node, done.anchor, done.line)

    def _alias(self, event: Any, line: int) -> None:
        if self._wants_key():
            raise self._error(line, "a key is one word, not an alias", "write the word itself")
        if event.anchor not in self.anchors:
            alias = f"*{event.anchor[:KEY_CAP]}"
            raise self._error(
                line, f"the alias {alias} points to nothing that is complete before it", f'quote a glob: "{alias}"'
            )
        self._place(self.anchors[event.anchor], None, line)

    def _place(self, node: Node, anchor: str | None, line: int) -> None:
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.stack:
            self.root = node
            return
        parent = self.stack[-1]
        parent.size += node.size
        if parent.size > NODES:
            raise self._error(line, f"more than {NODES} values, aliases followed", SPLIT)
        if parent.mapping and parent.key is not None:
            parent.entries[parent.key] = node
            parent.key = None
        else:
            parent.items.append(node)


def _resolved(text: str) -> Scalar:
    """An unquoted word by YAML 1.2, and the booleans of 1.1 too, so that ``no`` is never taken for a string."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
