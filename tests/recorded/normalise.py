"""What is kept of an output: values and keys, without what differs from run to run, and without human wording."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from tests.schemas import check_schema

TEXT = "<text>"
NUMBER = "<number>"
VERSIONED = frozenset({"version", "semanticVersion"})
"""Keys whose value is the version of lora-cli where it stands beside a schema."""

LOCAL = frozenset({"revision", "now", "locked"})
"""Keys that hold a local folder's fingerprint, which has inodes and times in it."""

NAMED = frozenset({"fingerprint", "fingerprint/v1", "loraCliFinding/v1", "primaryLocationLineHash"})
"""Keys that hold a finding's fingerprint, which has the adapter's address in it."""

UNSTABLE = {"folder": LOCAL, "web": NAMED, "s3": NAMED}
"""What is another at every run, by where adapters come from."""

ROUNDING = 1e-13
"""Numbers below it are what rounding left; other releases of numpy and torch add in another order."""

_MEASURED = re.compile(r"(.*_)?(ms|s|milliseconds|resident_bytes|per_s|seconds)")


@dataclass(frozen=True)
class Normaliser:
    """``names`` replaces addresses and paths of this run; ``source`` is where adapters come from.

    Numbers of the type ``measured`` are not kept.
    """

    names: Sequence[tuple[str, str]]
    source: str = "folder"
    measured: type | None = None

    def text(self, text: str) -> str:
        """A text with the names of this run replaced."""
        for found, name in self.names:
            text = text.replace(found, name)
        text = re.sub(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "<time>", text)
        return re.sub(r"127\.0\.0\.1(:|%3A)\d+", "<port>", text)

    def stdout(self, text: str, *, paths: bool) -> Any:
        """A JSON or XML document, workflow commands, or lines that are ``paths``; None for what people read."""
        if text.startswith(("{", "[")):
            document = json.loads(text)
            check_schema(document)
            return self.json(document)
        if text.startswith("<?xml"):
            return self.xml(text)
        if text.startswith("::"):
            return [self.command(line) for line in text.splitlines() if line.startswith("::")]
        return self.text(text).splitlines() if paths else None

    def json(self, value: Any, key: str = "", inside: Mapping[str, Any] | None = None) -> Any:
        """A JSON value without times, measurements and sentences."""
        if isinstance(value, dict):
            times = key if _MEASURED.fullmatch(key) else ""
            return {self.text(name): self.json(one, times or name, value) for name, one in value.items()}
        if isinstance(value, list):
            return [self.json(one, key) for one in value]
        if key in VERSIONED and inside is not None and ("schema" in inside or inside.get("name") == "lora-cli"):
            return "<version>"
        if isinstance(value, int | float) and not isinstance(value, bool) and self._is_measured(value, key):
            return NUMBER
        if value and key in UNSTABLE.get(self.source, ()):
            return "<fingerprint>"
        return self._word(value) if isinstance(value, str) else value

    def _is_measured(self, value: float, key: str) -> bool:
        return bool(_MEASURED.fullmatch(key)) or (self.measured is not None and isinstance(value, self.measured))

    def _word(self, text: str) -> str:
        text = self.text(text)
        return TEXT if re.search(r"\s", text) else text

    def xml(self, text: str) -> Any:
        """Elements with the attributes that are no sentences and no times."""

        def one(element: ET.Element) -> Any:
            kept = {
                name: self._word(value)
                for name, value in sorted(element.attrib.items())
                if name not in {"time", "timestamp", "hostname"}
            }
            if self.source == "folder" and kept.get("name") in LOCAL:
                kept["value"] = "<fingerprint>"
            return [element.tag, kept, *map(one, element)]

        return one(ET.fromstring(text.encode()))

    def command(self, line: str) -> str:
        """A workflow command of GitHub without its message and title."""
        name, _, rest = line.removeprefix("::").partition(" ")
        fields = [field for field in rest.partition("::")[0].split(",") if not field.startswith("title=")]
        return self.text(f"{name} {','.join(fields)}")
