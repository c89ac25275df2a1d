"""Names that mean something to whoever prints them, and the looking for what a reader would obey."""

import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

from markdown_it import MarkdownIt

BREAKS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""What some reader takes for the end of a line."""

ALL_BREAKS = (
    f"x\x1b]0;owned\x07\x1b[2J\u202e\u2066{''.join(f'{one}::error file=a::INJECTED' for one in BREAKS)}\r##vso[x]y"
)
NAMES = {
    "ANSI escapes": "a\x1b[2J\x1b]0;owned\x07\x1b[31mb\x1b]8;;http://evil.example\x1b\\c",
    "control characters": "a\rb\x08\x7f\x9b31mc\x0b\x0cd\te",
    "a new line": "a\n::error file=x::INJECTED\r\n##vso[task.setvariable]INJECTED\n",
    "other ends of lines": ALL_BREAKS,
    "bidi controls": "a\u202e\u2066gpj.exe\u2069\u200f",
    "invisible characters": "a\u200b\ufeff\u00ad\U000e0041b",
    "rich markup": "[red]a[/red][/][link=http://evil.example]b[/link] :smile: [bold",
    "HTML": '<script>alert(1)</script><img src=x onerror=alert(1)>&lt;" onmouseover="x\' y',
    "Markdown": "| `a` [x](http://evil.example) ![y](z) <http://evil.example> **b** <!-- @octocat #1 ~~c~~ $d$",
    "workflow commands": "::error::INJECTED ##[error]x ##vso[a]b ##teamcity[c] %0A%0D::set-env::",
    "XML": "a\x01\x0c\ufffe\uffff]]>&amp;<!-- --> <![CDATA[",
    "templates": "{{ 7*7 }}{% raw %}{0}${x}%s",
    "bytes that are not UTF-8": "a\udcff\udc80b",
    "labels of metrics": 'a"} 1\nevil{x="y\\',
}
"""By what they hold."""


def file_name(name: str) -> str:
    """``name``, as a file can be called: without slashes, and not too long."""
    name = name.replace("/", "\u2215")
    while len(os.fsencode(name)) > LONGEST_FILE:
        name = name[:-1]
    return name


LONGEST_FILE = 200
COMMAND = re.compile(r"^\s*::\w|##\w*\[")
STYLE = re.compile(r"\x1b\[[0-9;]*m")
"""What rich colours with."""


def obeyed(text: str) -> list[str]:
    """What a terminal or a runner would obey in ``text``, whatever it takes for the end of a line."""
    lines = re.split(r"\r\n|[\n" + BREAKS + "]", text)
    controls = {repr(char) for char in text if not char.isprintable() and char != "\n"}
    return sorted(controls) + [line for line in lines if COMMAND.search(line)]


def markup_of_page(text: str) -> list[str]:
    """What a browser would run or load of a page, and links that leave it."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend([tag] if tag in {"script", "img", "iframe", "object", "embed", "form", "link"} else [])
            for name, value in attrs:
                leaves = name in {"href", "src"} and not (value or "").startswith("#")
                found.extend([f"{name}={value}"] if name.startswith("on") or leaves else [])

    reader = Reader()
    reader.feed(text)
    return found


def markup_of_markdown(text: str) -> list[str]:
    """Links, images, and HTML that is not that of a report, as a reader of Markdown finds them."""
    tokens = MarkdownIt("commonmark", {"html": True, "linkify": False}).enable("table").parse(text)
    every = [one for token in tokens for one in (token, *(token.children or ()))]
    made = [one.content for one in every if one.type in {"html_block", "html_inline"}]
    ours = re.compile(r"</?(details|summary|code|br|details open)>")
    left = [tag for one in made for tag in re.findall(r"<[^>]*>?", one) if not ours.fullmatch(tag)]
    return left + [one.type for one in every if one.type in {"link_open", "image", "s_open"}]


def texts(node: Any) -> Iterator[str]:
    """Every text of a JSON document, keys too."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        yield from (text for pair in node.items() for one in pair for text in texts(one))
    elif isinstance(node, list):
        yield from (text for one in node for text in texts(one))
