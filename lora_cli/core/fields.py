"""Typed getters over the nodes of a document; every error names file, line, key, and the nearest known key."""

import re
from collections.abc import Collection, Mapping

from lora_cli.core.document import Node, wrong
from lora_cli.core.nearest import did_you_mean
from lora_cli.core.units import advised, parse_size, shown
from lora_cli.errors import UsageError

API_VERSION = "lora-cli/v1"
LARGEST_INT = 10**15

READ_WITH = {"AdapterSet": "-f", "AdapterSetLock": "--lock", "Policy": "--policy"}
"""The option for each kind of document."""

SIZE = "write 512MiB, 2GiB or a number of bytes"

NOTHING: Mapping[str, str] = {}

_KINDS = {"mapping": "a mapping", "sequence": "a list"}


def fields(
    node: Node, known: Collection[str], required: Collection[str] = (), instead: Mapping[str, str] = NOTHING
) -> Mapping[str, Node]:
    """The entries of a mapping that has only ``known`` keys and all ``required`` ones.

    ``instead`` has for keys that people expect, and that are none, how it is written here.

    Raises:
        UsageError: no mapping, an unknown key (with the nearest known one), or a missing key.
    """
    if node.kind != "mapping":
        raise wrong(node, f"this is {kind_of(node)}, and must be a mapping", hint=f"known keys: {', '.join(known)}")
    for key in node.entries:
        if key not in known:
            path = f"{node.path}.{key}" if node.trail else key
            hint = instead.get(key) or did_you_mean(key, known)
            raise UsageError(f"{node.file}:{node.key_lines[key]}: {path}: unknown key", hint=hint)
    for key in required:
        if key not in node.entries:
            raise wrong(node, f"the key {key} is missing", hint=f"add {key}: …")
    return node.entries


def head(node: Node, kind: str, known: Collection[str], required: Collection[str] = ()) -> Mapping[str, Node]:
    """The entries of a whole document of ours: ``apiVersion`` and ``kind`` are checked before any other key.

    Raises:
        UsageError: another version or kind, or what ``fields`` raises.
    """
    if node.kind == "mapping":
        _check_head(node, kind)
    return fields(node, ("apiVersion", "kind", *known), ("apiVersion", "kind", *required))


def _check_head(node: Node, kind: str) -> None:
    for key, value in (("apiVersion", API_VERSION), ("kind", kind)):
        if key not in node.entries:
            raise wrong(node, f"the key {key} is missing", hint=f"add {key}: {value}")
        word = text(node.entries[key])
        if word != value:
            other = key == "kind" and READ_WITH.get(word)
            hint = f"{word} is read with {other}, {kind} with {READ_WITH[kind]}" if other else f"{key}: {value}"
            raise wrong(node.entries[key], f"{shown(word)} is not {value}", hint=hint)


def text(node: Node, pattern: str = r".+", what: str = "text", hint: str = "") -> str:
    """A string that matches ``pattern`` as a whole; ``what`` describes it, and ``hint`` says how to come by one.

    A word that YAML may read as a number, a boolean or null is refused: the next tool would read something else.
    """
    if node.kind == "scalar" and node.scalar is not None and not isinstance(node.scalar, str):
        raise wrong(node, f"{node.text[:60]} is {kind_of(node)} here", hint=f'quote it: "{node.text[:60]}"')
    if not isinstance(node.scalar, str):
        raise wrong(node, f"this is {kind_of(node)}, and must be {what}", hint=hint or "write one value, quoted")
    if not re.fullmatch(pattern, node.scalar, re.ASCII):
        raise wrong(node, f"{shown(node.scalar)} is not {what}", hint=hint or "write one line that is not empty")
    return node.scalar


def version(node: Node) -> str:
    """A version, quoted or not: the text counts, so that ``0.30`` stays ``0.30``."""
    if (
        node.kind != "scalar"
        or isinstance(node.scalar, bool)
        or not re.fullmatch(r"\d[\w.+-]{0,63}", node.text, re.ASCII)
    ):
        message = f"{shown(node.text)} is not a version" if node.text else "this is not a version"
        raise wrong(node, message, hint='version: "0.33"; lora-cli engines lists those that are known')
    return node.text


def secret_free(node: Node, pattern: str, what: str, hint: str) -> str:
    """As ``text``, but the value is never repeated in an error: people put secrets where names of secrets belong."""
    if not isinstance(node.scalar, str) or not re.fullmatch(pattern, node.scalar, re.ASCII):
        raise wrong(node, f"this is not {what}", hint=hint)
    return node.scalar


def choice(node: Node, known: Collection[str]) -> str:
    """One word of ``known``."""
    word = text(node)
    if word not in known:
        raise wrong(node, f"{shown(word)} is not {' or '.join(known)}", hint=did_you_mean(word, known))
    return word


def boolean(node: Node) -> bool:
    """True or false, unquoted."""
    if not isinstance(node.scalar, bool):
        raise wrong(
            node, f"this is {kind_of(node)}, and must be true or false", hint="write true or false, without quotes"
        )
    return node.scalar


def integer(node: Node, lowest: int = 0, highest: int = LARGEST_INT) -> int:
    """A whole number in range, unquoted."""
    if not isinstance(node.scalar, int) or isinstance(node.scalar, bool) or not lowest <= node.scalar <= highest:
        message = f"{_value(node)} is not a whole number from {lowest} to {highest}"
        raise wrong(node, message, hint="write digits, without quotes")
    return node.scalar


def size(node: Node) -> int:
    """Bytes, as a number or as ``2GiB``."""
    if not isinstance(node.scalar, int | str) or isinstance(node.scalar, bool):
        raise wrong(node, f"this is {kind_of(node)}, and must be a size", hint=SIZE)
    try:
        return parse_size(node.scalar)
    except ValueError as error:
        message, advice = advised(error)
        raise wrong(node, message, hint=advice or SIZE) from error


def items(node: Node) -> tuple[Node, ...]:
    """The members of a list."""
    if node.kind != "sequence":
        raise wrong(
            node, f"this is {kind_of(node)}, and must be a list", hint="write [ONE, TWO], or a line with - for each"
        )
    return node.items


def few(node: Node, most: int) -> tuple[Node, ...]:
    """The members of a list that has no more than ``most``."""
    members = items(node)
    if len(members) > most:
        raise wrong(node, f"{len(members)} are more than the {most} that are read", hint="write fewer, with wildcards")
    return members


def texts(node: Node, pattern: str, what: str, hint: str) -> tuple[str, ...]:
    """A list of strings, each as ``text`` has it."""
    return tuple(text(member, pattern, what, hint) for member in items(node))


def kind_of(node: Node) -> str:
    """What a node is, in words: ``a list``, ``a number``, ``empty``."""
    if node.kind != "scalar":
        return _KINDS[node.kind]
    if node.scalar is None:
        return "empty"
    if isinstance(node.scalar, bool):
        return "a boolean"
    return "text" if isinstance(node.scalar, str) else "a number"


def _value(node: Node) -> str:
    return (
        shown(node.scalar) if node.kind == "scalar" and node.scalar is not None else f"this is {kind_of(node)}, which"
    )
