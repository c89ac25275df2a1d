"""Run by vLLM's own Python: models that vLLM is started with one after another, and adapters in each.

A task without a model is what each class of its registry says of itself: by the name in ``architectures``, whether it
supports LoRA, its ``embedding_modules``, whether it is for more than text, and whether experts are in one tensor.
Reads one JSON object a line: ``directory`` of a model, its ``adapters`` (name to folder), ``prompts``, ``asks`` (the
number of tokens in the vocabulary, or ``embed``, ``classify``, ``token_classify``), the ``flags`` that vLLM is started
with, the ``log`` that it writes to, and ``out``. It writes what was seen there, as a JSON object a line, and then a
line on its own stdout. Each model has a process of its own, forked off after vLLM was
imported: an import is what most of a start takes, and what goes down takes nothing else with it.
"""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import vllm.v1.engine.llm_engine
import vllm.v1.worker.cpu_worker  # noqa: F401
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.model_executor.models import registry
from vllm.model_executor.models.interfaces import supports_lora, supports_multimodal

SAID = 600


def said(error: BaseException) -> str:
    """An error in its own words."""
    return f"{type(error).__name__}: {error}"[:SAID]


def answers(llm: LLM, task: Mapping[str, Any], lora: LoRARequest | None) -> list[list[float | None]]:
    """The log-probability of every token after each prompt, None of what is no number; or the embeddings or classes."""
    prompts, asks = [{"prompt_token_ids": prompt} for prompt in task["prompts"]], task["asks"]
    if isinstance(asks, str):
        told = [one.outputs.data for one in llm.encode(prompts, pooling_task=asks, lora_request=lora, use_tqdm=False)]
        return [(one[-1] if asks.startswith("token") else one).tolist() for one in told]
    asked = SamplingParams(max_tokens=1, temperature=0, logprobs=asks, detokenize=False)
    told = [one.outputs[0].logprobs[0] for one in llm.generate(prompts, asked, use_tqdm=False, lora_request=lora)]
    found = [[float(one[token].logprob) for token in range(asks)] for one in told]
    return [[value if abs(value) < float("inf") else None for value in row] for row in found]


def tried(llm: LLM, task: Mapping[str, Any], number: int, name: str, is_asked: bool) -> dict[str, Any]:
    """Load as the server does, ask where the base answers, unload."""
    request = LoRARequest(name, number, task["adapters"][name])
    try:
        llm.llm_engine.add_lora(request)
    except Exception as error:
        return {"name": name, "rejects": said(error)}
    try:
        return {"name": name, "answers": answers(llm, task, request)} if is_asked else {"name": name, "loads": True}
    except Exception as error:
        return {"name": name, "crashes": said(error)}
    finally:
        llm.llm_engine.remove_lora(number)


def classes(out: TextIO) -> None:
    """One object. A class that needs a package or a device that is not here is left out."""
    found = {}
    for architecture, (module, name, *_) in registry._VLLM_MODELS.items():
        where = module if module.startswith("vllm.") else f"vllm.model_executor.models.{module}"
        try:
            one = getattr(importlib.import_module(where), name)
        except Exception:
            continue
        found[architecture] = {
            "lora": bool(supports_lora(one)),
            "embeddings": sorted(getattr(one, "embedding_modules", None) or ()),
            "multimodal": bool(supports_multimodal(one)),
            "fused_experts": bool(getattr(one, "is_3d_moe_weight", False)),
        }
    print(json.dumps(found), file=out)


def model(task: Mapping[str, Any], out: TextIO) -> None:
    """One model and its adapters, each told when it is known."""
    try:
        llm = LLM(model=task["directory"], **task["flags"])
    except Exception as error:
        print(json.dumps({"fails": said(error)}), file=out, flush=True)
        raise
    first: dict[str, Any]
    try:
        first = {"starts": answers(llm, task, None)}
    except Exception as error:
        traceback.print_exc()
        first = {"mute": said(error)}
    print(json.dumps(first), file=out, flush=True)
    for number, name in enumerate(task["adapters"], 1):
        seen = tried(llm, task, number, name, is_asked="starts" in first)
        print(json.dumps(seen), file=out, flush=True)
        if "crashes" in seen:
            return


def main() -> None:
    """Answers line by line."""
    # What a class can do is asked of it here, not in a Python of its own that imports vLLM again.
    registry._run_in_subprocess = lambda ask: ask()
    for line in sys.stdin:
        task = json.loads(line)
        child = os.fork()
        if child == 0:
            log = os.open(task["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            try:
                with Path(task["out"]).open("w", encoding="utf-8") as out:
                    model(task, out) if "directory" in task else classes(out)
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        print("DONE", flush=True)


if __name__ == "__main__":
    main()
