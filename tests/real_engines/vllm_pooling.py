"""Run by vLLM's own Python: models of classes for embeddings or classes, and adapters on each.

Reads one JSON object a line: ``directory``, ``flags``, ``prompts``, ``adapters`` (name to folder) and ``asks``
(``embed``, ``classify`` or ``token_classify``). Writes one JSON object a line, each after ``SEEN ``: ``fails``, or
``starts`` with the base's answers and then one for each adapter; and ``DONE``.
"""

import json
import os
import sys
import traceback
from typing import Any

import vllm.v1.engine.llm_engine
import vllm.v1.worker.cpu_worker  # noqa: F401
from vllm import LLM
from vllm.lora.request import LoRARequest
from vllm.model_executor.models import registry

SAID = 600


def answers(llm: LLM, task: dict[str, Any], lora: LoRARequest | None) -> list[list[float]]:
    """What is told of each prompt, of the last token where every token has an answer."""
    prompts = [{"prompt_token_ids": prompt} for prompt in task["prompts"]]
    told = llm.encode(prompts, pooling_task=task["asks"], lora_request=lora, use_tqdm=False)
    data = [one.outputs.data for one in told]
    return [(one[-1] if task["asks"].startswith("token") else one).tolist() for one in data]


def tell(**seen: Any) -> None:
    """One line."""
    print("SEEN", json.dumps(seen), flush=True)


def one(task: dict[str, Any]) -> None:
    """One model."""
    try:
        llm = LLM(model=task["directory"], runner="pooling", **task["flags"])
    except Exception as error:
        tell(fails=f"{type(error).__name__}: {error}"[:SAID])
        return
    tell(starts=answers(llm, task, None))
    for number, (name, directory) in enumerate(task["adapters"].items(), 1):
        request = LoRARequest(name, number, directory)
        try:
            llm.llm_engine.add_lora(request)
        except Exception as error:
            tell(name=name, rejects=f"{type(error).__name__}: {error}"[:SAID])
            continue
        tell(name=name, answers=answers(llm, task, request))
        llm.llm_engine.remove_lora(number)


def main() -> None:
    """Models line by line, each in a process of its own that is forked off after vLLM was imported."""
    # What a class can do is asked of it here, not in a Python of its own that imports vLLM again.
    registry._run_in_subprocess = lambda ask: ask()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                one(json.loads(line))
            except Exception:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(0)
        os.waitpid(child, 0)
        print("DONE", flush=True)


if __name__ == "__main__":
    main()
