"""What the real vLLM makes of a base and of adapters on it, in the process of ``vllm_worker.py``."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lora_cli.finding import Outcome
from tests.corpus.peft_judge import logits
from tests.real_engines.agreement import Seen, distance, served
from tests.real_engines.bases import VOCABULARY
from tests.real_engines.cases import MAX_LORA_RANK, SPOILING, Case
from tests.real_engines.vllm_server import PROMPTS, meant

FLAGS: Mapping[str, Any] = {
    **{"dtype": "float32", "enforce_eager": True, "max_model_len": 48, "max_num_seqs": 16, "max_logprobs": 128},
    **{"enable_lora": True, "max_loras": 1, "max_cpu_loras": 2, "max_lora_rank": MAX_LORA_RANK},
}
"""As ``vllm_server.serving`` starts it."""

NO_SUPPORT = "does not support LoRA yet"
"""What vLLM says of a class that has none."""


@dataclass(frozen=True, slots=True)
class Run:
    """A base in vLLM: ``fails`` is what vLLM said where it did not start, or where the base itself had no answer.

    ``off`` is how far the base's own answer was from transformers', ``seen`` what became of each adapter.
    ``loaded`` are those that were taken by a base that does not answer, so that they could not be asked.
    """

    fails: str = ""
    off: float = float("nan")
    seen: tuple[Seen, ...] = ()
    loaded: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that starts vLLM with one model after another."""

    process: "subprocess.Popen[str]"

    def run(
        self, model: Path, adapters: Mapping[str, Path], out: Path, flags: Mapping[str, Any], **task: Any
    ) -> list[Any]:
        """What ``vllm_worker.py`` writes of one model; ``task`` has other prompts, and what else is asked."""
        asked: dict[str, Any] = {"prompts": PROMPTS, "asks": VOCABULARY, **task, "flags": {**FLAGS, **flags}}
        asked |= {"directory": str(model), "adapters": {name: str(path) for name, path in adapters.items()}}
        return self.ask(out, asked)

    def ask(self, out: Path, task: Mapping[str, Any]) -> list[Any]:
        """What it writes of a task."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({**task, "log": str(out.with_suffix(".log")), "out": str(out)}), file=self.process.stdin)
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.strip() == "DONE":
                return [json.loads(one) for one in out.read_text().splitlines()]
        raise AssertionError(f"vLLM's Python ended with {self.process.wait()}")


def observed(worker: Worker, model: Path, cases: Mapping[str, Case], out: Path, flags: Mapping[str, Any]) -> Run:
    """All the cases of one base, started with ``flags``; it is started again for those that follow a crash.

    Adapters that answer with NaN are the last: those stay in the blocks of the KV cache, and whoever is given such a
    block next answers with NaN too.
    """
    tiny = next(iter(cases.values())).base
    waiting = {name: cases[name] for name in sorted(cases, key=lambda name: cases[name].name in SPOILING)}
    seen, off = list[Seen](), float("nan")
    while waiting:
        told = worker.run(model, {name: case.directory for name, case in waiting.items()}, out, flags)
        first = told[0] if told else {"fails": "went down"}
        if "fails" in first:
            return Run(first["fails"])
        if "mute" in first:
            refused = [Seen(one["name"], Outcome.REJECTS, one["rejects"]) for one in told[1:] if "rejects" in one]
            loaded = frozenset(one["name"] for one in told[1:] if "loads" in one)
            return Run(first["mute"], off, tuple(refused), loaded)
        off = distance(np.array(first["starts"], float), meant(logits(tiny.model())))
        seen += [_seen(one, waiting.pop(one["name"])) for one in told[1:]]
        if waiting and not (len(told) > 1 and "crashes" in told[-1]):
            name = next(iter(waiting))
            del waiting[name]
            seen.append(Seen(name, Outcome.CRASHES, "went down"))
    return Run("", off, tuple(seen))


def _seen(told: Mapping[str, Any], case: Case) -> Seen:
    for outcome in (Outcome.REJECTS, Outcome.CRASHES):
        if str(outcome) in told:
            return Seen(case.name, outcome, told[str(outcome)])
    return served(case.name, np.array(told["answers"], float), meant(case.intended))
