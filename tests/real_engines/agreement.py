"""What ``validate --engine`` says of each adapter beside what the engine did with it."""

import json
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_cli.cli.main import main
from tests.real_engines.cases import MAX_LORA_RANK, Case
from tests.real_engines.effects import Observed, Seen

LEAST = {"vllm": 0.98, "peft": 0.99}
"""The share of adapters on which ``validate`` and the engine have to agree; known disagreements count against it."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """What ``validate --engine`` says: the outcome and its reasons."""

    outcome: Observed
    why: str


def predictions(engine: str, base: Path, corpus: Sequence[Case], out: Path) -> dict[str, Predicted]:
    """Every case's name to what the command says of it, all judged in one run of it."""
    judged = ("validate", "--engine", engine, "--max-lora-rank", str(MAX_LORA_RANK), "--base", str(base))
    main([*judged, "--format", f"json={out}", *(str(case.directory) for case in corpus)])
    adapters = json.loads(out.read_text())["adapters"]
    return {Path(urllib.parse.unquote(one["source"])).name: _predicted(one) for one in adapters}


def _predicted(adapter: Mapping[str, Any]) -> Predicted:
    (engine,) = adapter["engines"]
    why = [f"{one['code']}: {one['message']}" for one in adapter["findings"] if one["effects"]]
    return Predicted(Observed(engine["outcome"]), "; ".join(why))


def disagreements(predicted: Mapping[str, Predicted], seen: Iterable[Seen]) -> dict[str, str]:
    """The name of each adapter on which they differ, to one line that says how."""
    return {
        one.name: f"{one.name}: the engine {one.observed} ({one.said or f'{one.from_intended:.2g} off'}), "
        f"validate says {predicted[one.name].outcome} ({predicted[one.name].why or 'no reason'})"
        for one in seen
        if predicted[one.name].outcome is not one.observed
    }


def report(title: str, seen: Sequence[Seen], differ: Mapping[str, str], known: Mapping[str, str]) -> str:
    """The share on which they agree, and each difference with its explanation."""
    lines = [f"{title}: {len(seen) - len(differ)} of {len(seen)} agree"]
    lines += [f"  {line}\n    {known.get(name, 'NOT EXPLAINED')}" for name, line in differ.items()]
    return "\n".join(lines)


def holds(engine: str, seen: Sequence[Seen], differ: Mapping[str, str], known: Mapping[str, str]) -> bool:
    """Whether enough agree and every difference is explained."""
    return len(differ) <= (1 - LEAST[engine]) * len(seen) and differ.keys() <= known.keys()
