"""One case: what is there, a command line in this process, and the line that is left of its JSON."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.recorded.machine import environment, run

Reduce = Callable[[Mapping[str, Any]], Iterable[str]]


@dataclass(frozen=True)
class Case:
    """``prepare`` makes what is needed in the current folder, and gives what ``inspect`` and ``fetch`` are told.

    ``judged`` are further options of ``validate``, ``env`` further variables; ``inspected`` are its facts, too.
    """

    id: str
    prepare: Callable[[], Sequence[str]]
    judged: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    inspected: bool = False


@contextlib.contextmanager
def machine(env: Mapping[str, str]) -> Iterator[None]:
    """A folder, a home, a cache and an environment that nobody else has."""
    with tempfile.TemporaryDirectory(prefix="golden-") as folder, contextlib.chdir(folder):
        here = Path(folder).resolve()
        values = {
            "HOME": str(here / "home"), "XDG_CONFIG_HOME": str(here / "home/config"), "HF_HOME": str(here / "home/hf"),
            "XDG_CACHE_HOME": str(here / "home/cache"), "DOCKER_CONFIG": str(here / "home/docker"),
            "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1", "AWS_EC2_METADATA_DISABLED": "true",
            "LORA_CLI_CACHE_DIR": str(here / "cache"), "LORA_CLI_RETRIES": "0", "LORA_CLI_TIMEOUT": "10s",
        }  # fmt: skip
        with environment({**values, **env}):
            yield


def line(case: Case, verb: Sequence[str], reduce: Reduce) -> str:
    """What is left of one case: its id, the exit code, and what ``reduce`` makes of the JSON, if there is any."""
    with machine(case.env):
        told = case.prepare()
        code, out, _ = run([*verb, "--format", "json", *told, *(case.judged if verb[0] == "validate" else ())])
        parts = [case.id, f"exit {code}", *(reduce(json.loads(out)) if out else ())]
    return " | ".join(part.encode("unicode_escape").decode() for part in parts)
