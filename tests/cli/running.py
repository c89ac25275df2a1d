"""A command line in this process, and what it says."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple


class Said(NamedTuple):
    """What a command wrote to standard output and standard error."""

    out: str
    err: str

    @property
    def text(self) -> str:
        """Both, unwrapped."""
        return " ".join(f"{self.out} {self.err}".split())

    @property
    def document(self) -> Any:
        """What ``--format json`` wrote."""
        return json.loads(self.out)


Run = Callable[..., Said]
"""Runs a command line, of which blanks part the words, and holds it to its exit code: ``run("fetch ./none", 3)``."""
