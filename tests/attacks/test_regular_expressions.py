"""Every regular expression of the package against texts that are made to hold it up: none takes the square of a length.

A pattern is found where it is compiled or used, and is tried as it is used: from the beginning, as a whole, anywhere.
What it is tried with is made of its own parts, repeated.
"""

import ast
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import pytest

from lora_cli.adapter.adapter import DIALECTS, FORMATS
from tests.attacks.measured import slowness
from tests.conftest import ROOT

PACKAGE = ROOT / "lora_cli"
ANYWHERE = ("search", "sub", "split", "findall", "finditer")
FROM_THE_START = ("match", "fullmatch")
USE = re.compile(rf"\b(\w+)\.({'|'.join((*ANYWHERE, *FROM_THE_START))})\b")
MADE = ("compile", "late", "_search")
LENGTH = 8_000
SLOW_S = 0.05
"""What so many characters take at most: a pattern that goes over them once needs a thousandth of it."""

Pattern = str | bytes


def literals(node: ast.AST) -> Iterator[Pattern]:
    """The texts that an argument may be; what a formatted one puts in is an ``x``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(one.value) if isinstance(one, ast.Constant) else "x" for one in node.values)
    elif isinstance(node, ast.BinOp):
        left, right = "".join(map(str, literals(node.left))), "".join(map(str, literals(node.right)))
        yield left + right


def used() -> Iterator[tuple[str, Pattern, str]]:
    """Where each pattern stands, the pattern, and how it is used: what is compiled, by its name in any module."""
    modules = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
    ways: dict[str, set[str]] = defaultdict(set)
    for name, way in USE.findall("\n".join(modules.values())):
        ways[name].add(way)
    for path, text in modules.items():
        nodes = list(ast.walk(ast.parse(text)))
        unnamed = "fullmatch" if "pattern.fullmatch(" in text else "search"
        names = {id(one.value): one.targets[0] for one in nodes if isinstance(one, ast.Assign)}
        for node in nodes:
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            arguments = node.args[1:] if called == "partial" else node.args
            if called == "partial" and getattr(node.args[0], "id", "") == "_search":
                called = "search"
            if called not in (*MADE, *ANYWHERE, *FROM_THE_START) or not arguments:
                continue
            flags = "(?m)" if "MULTILINE" in ast.unparse(node) else ""
            target = names.get(id(node))
            how = {called}
            if called in MADE and isinstance(target, ast.Name):
                how = ways.get(target.id, {ANYWHERE[0]})
            for pattern, way in product(literals(arguments[0]), how):
                where = f"{path.relative_to(PACKAGE)}:{node.lineno}"
                yield where, flags + pattern if isinstance(pattern, str) else pattern, unnamed if way in MADE else way
    for one in FORMATS:
        yield one.title, one.files, "fullmatch"
        yield one.title, one.keys and f"(?m){one.keys}", "search"
    yield from (("dialects", pattern, "search") for pattern in DIALECTS)


def parts(pattern: str) -> Iterator[str]:
    """Texts that parts of a pattern may match: what is escaped, words and signs, alone and one behind the other."""
    yield from re.findall(r"\\([^\w\s])", pattern)
    text = re.sub(r"\\[AbBdDsSwWZ]|\(\?[a-zA-Z]*[:!=<P]?|[?*+\\^$]", "", pattern)
    yield from re.findall(r"[^\w\s()|{}]", text)
    yield from re.findall(r"\w+", text)
    yield from re.findall(r"[\w:/<>%@#-]{2,}", text)


def texts(pattern: str) -> Iterator[str]:
    """What may hold the pattern up: a beginning that it takes, something repeated, and an end that it does not take."""
    usual = (" ", "\n", "a", "1", "_", ".", "~")
    found = list(dict.fromkeys(parts(pattern))) or ["a"]
    pumps = dict.fromkeys((*found[:16], *found[-8:], *usual))
    pumps |= dict.fromkeys(a + b for a, b in product([*found[:4], "a", "1", "."], repeat=2))
    begins = ["", found[0], "".join(found[:3])]
    for begin, pump, end in product(begins, pumps, ("", "\0")):
        yield begin + pump * (LENGTH // len(pump)) + end


def is_one(pattern: Pattern) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


@cache
def patterns() -> list[tuple[str, Pattern, str]]:
    return sorted({one for one in used() if one[1] and is_one(one[1])}, key=str)


FOLDERS = sorted(folder.parent.name for folder in PACKAGE.glob("*/__init__.py"))


def folder_of(where: str) -> str:
    """The package's folder that a pattern is in; empty for what is in none, the tables of formats."""
    return where.partition("/")[0] if "/" in where else ""


@pytest.mark.slow
def test_the_patterns_of_the_package_are_found() -> None:
    assert len(patterns()) > 150
    assert {folder_of(where) for where, _, _ in patterns()} <= {"", *FOLDERS}
    assert any(where.startswith("checks/supply.py") for where, _, _ in patterns())
    assert any(where == "a Kohya LoRA for images" for where, _, _ in patterns())


def seconds(pattern: Pattern, way: str, text: str) -> float:
    compiled: Any = re.compile(pattern)
    subject: Any = text.encode(errors="replace") if isinstance(pattern, bytes) else text
    begun = time.perf_counter()
    if way == "sub":
        compiled.sub("", subject)
    elif way == "finditer":
        list(compiled.finditer(subject))
    else:
        getattr(compiled, way)(subject)
    return time.perf_counter() - begun


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["", *FOLDERS])
def test_no_text_holds_a_pattern_up(folder: str) -> None:
    for where, pattern, way in (one for one in patterns() if folder_of(one[0]) == folder):
        text_pattern = pattern.decode("latin-1") if isinstance(pattern, bytes) else pattern
        for text in texts(text_pattern):
            if seconds(pattern, way, text) > SLOW_S:
                fastest_s = min(seconds(pattern, way, text) for _ in range(3))
                assert fastest_s < SLOW_S * slowness(), (where, pattern, text[:80])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "text"),
    [(r"%c[^'\"]*['\"]", "%c" * 10_000), (r"range\s*\(\s*(?:[^()]*,\s*)?\d{6,}", "range(" + " " * 20_000)],
)
def test_a_pattern_that_goes_back_over_its_text_would_be_found(pattern: str, text: str) -> None:
    assert any(seconds(pattern, "search", one) > SLOW_S for one in (text, *texts(pattern)))
