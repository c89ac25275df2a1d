"""What is kept of the JSON: codes, counts, names and digests; no sentence, no time, no version of a library."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

WORDS = {"wrong output": "wrong-output"}
Json = Mapping[str, Any]


def judgement(report: Json) -> Iterator[str]:
    """Applied modules, each engine's outcome, and what was found where."""
    for adapter in report["adapters"]:
        yield f"applied {_of(adapter['applied'])}"
        for one in adapter["engines"]:
            name = one["engine"] if one["version"] is None else f"{one['engine']}@{one['version']}"
            yield f"{name} {WORDS.get(one['outcome'], one['outcome'])} {_of(one['applied'])}"
        yield from _findings(adapter)


def inspection(report: Json) -> Iterator[str]:
    """What an adapter is, by its config and header."""
    for adapter in report["adapters"]:
        if (facts := adapter["inspection"]) is None:
            yield from _findings(adapter)
            continue
        yield facts["format"].partition(":")[0]
        yield f"base {facts['base'] or '-'} {facts['base_revision'][:12]} {facts['task_type'] or '-'}"
        yield f"applied {_of(adapter['applied'])} modules {facts['modules']} layers {_listed(facts['layers'])}"
        yield f"rank {_counts(facts['ranks'])}"
        yield f"scaling {_counts({f'{float(value):.6g}': count for value, count in facts['scalings'].items()})}"
        yield f"targets {_counts(facts['targets'])}"
        yield f"{_counts(facts['dtypes'])} parameters {facts['parameters']} bytes {facts['weight_bytes']}"
        yield f"features {_listed(facts['features'])}"


def fetched(report: Json) -> Iterator[str]:
    """Each adapter's exit code, snapshot and files, and what lies in ``out``, if the command line wrote there."""
    for adapter in report["adapters"]:
        yield f"{adapter['name']} exit {adapter['exit_code']} {adapter.get('sha256') or '-'}"
        yield from (f"{one['path']} {one['bytes']} {one['sha256'][:12]}" for one in adapter.get("files", ()))
    out = Path("out")
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        yield f"{path} {path.stat().st_size} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def _findings(adapter: Json) -> Iterable[str]:
    told = ((one["code"], one["severity"], one["file"], one["field"]) for one in adapter["findings"])
    return sorted({" ".join(one).strip() for one in told})


def _of(applied: Json | None) -> str:
    return "-" if applied is None else f"{applied['matched']}/{applied['total']}"


def _counts(counted: Mapping[str, int]) -> str:
    return " ".join(f"{name}:{count}" for name, count in sorted(counted.items())) or "-"


def _listed(values: Iterable[object]) -> str:
    return ",".join(map(str, values)) or "-"
