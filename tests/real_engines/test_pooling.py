"""The real vLLM with bases that give embeddings or classes, beside ``validate --engine vllm@0.32``."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.corpus.peft_judge import quiet
from tests.real_engines.agreement import predictions
from tests.real_engines.bases import SIZES, write_words
from tests.real_engines.cases import Case
from tests.real_engines.classes import CLASSES
from tests.real_engines.effects import TOLERANCE, Observed, distance
from tests.real_engines.families import GPT2, NEOX
from tests.real_engines.family_oracle import FLAGS
from tests.real_engines.vllm_server import ENVIRONMENT, PYTHON

pytestmark = pytest.mark.engines

PROMPTS = [list(range(5, 13)), list(range(20, 36))]
TASKS = {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}


def model_of(architecture: str) -> Any:
    """A tiny model of the class, the same each time."""
    import torch
    import transformers

    found = getattr(transformers, architecture)
    fields = GPT2 if "GPT2" in architecture else NEOX if "ert" in architecture else SIZES
    labels = {"num_labels": 3} if "Classification" in architecture else {}
    torch.manual_seed(5)
    return found(found.config_class(**{**fields, "pad_token_id": 0, **labels})).eval()


def write(architecture: str, folder: Path) -> tuple[Path, dict[str, Path], dict[str, Any]]:
    """The base, its adapters by name, and what PEFT answers with each."""
    import torch
    from peft import LoraConfig, get_peft_model

    tasks: dict[str, str | None] = {"backbone": None}
    if architecture.endswith("Model"):
        tasks["bare"] = "FEATURE_EXTRACTION"
    for end, task in TASKS.items():
        if architecture.endswith(end):
            tasks["head"] = task
    adapters, meant = {}, {}
    with quiet():
        model_of(architecture).save_pretrained(folder / "base")
        write_words(folder / "base")
        for name, trained in tasks.items():
            torch.manual_seed(11)
            targets = r".*\.(query|value|q_proj|v_proj|c_attn)"
            adapted = get_peft_model(
                model_of(architecture), LoraConfig(r=8, lora_alpha=12, target_modules=targets, task_type=trained)
            )
            with torch.no_grad():
                for key, parameter in adapted.named_parameters():
                    if "lora_" in key or "modules_to_save" in key:
                        parameter.add_(torch.randn_like(parameter) * 0.3)
            adapted.save_pretrained(folder / name)
            adapters[name], meant[name] = folder / name, answers(adapted.eval())
    return folder / "base", adapters, meant


def answers(adapted: Any) -> Any:
    """Classes of the prompt, or of its last token, and the embedding that vLLM makes by default of such a class."""
    import torch

    found = []
    with torch.no_grad():
        for prompt in PROMPTS:
            told = adapted(input_ids=torch.tensor([prompt]), output_hidden_states=True)
            name = type(adapted.get_base_model()).__name__
            if "Classification" in name:
                found.append(told.logits.softmax(-1).reshape(-1, 3)[-1])
            else:
                hidden = told.hidden_states[-1][0, 0 if "ert" in name else -1]
                found.append(hidden / hidden.norm())
    return np.stack([one.double().numpy() for one in found])


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator["subprocess.Popen[str]"]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    with (tmp_path_factory.mktemp("vllm") / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            ["nice", str(PYTHON), str(Path(__file__).with_name("vllm_pooling.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**kept, **ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        )
        with process:
            yield process


def run(process: "subprocess.Popen[str]", base: Path, adapters: dict[str, Path], asks: str) -> list[dict[str, Any]]:
    """What vLLM did."""
    flags = {name: value for name, value in FLAGS.items() if name != "max_logprobs"}
    task = {"directory": str(base), "flags": flags, "prompts": PROMPTS, "asks": asks}
    task["adapters"] = {name: str(path) for name, path in adapters.items()}
    assert process.stdin is not None
    assert process.stdout is not None
    print(json.dumps(task), file=process.stdin, flush=True)
    seen: list[dict[str, Any]] = []
    for line in process.stdout:
        if line.strip() == "DONE":
            return seen
        if "SEEN {" in line:
            seen.append(json.loads(line.partition("SEEN ")[2]))
    raise AssertionError(f"vLLM's Python ended with {process.wait()}")


@pytest.mark.parametrize("architecture", CLASSES)
def test_validate_says_what_vllm_does_with_each_class(
    architecture: str, worker: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    base, adapters, meant = write(architecture, tmp_path)
    asks = (
        "embed" if "Classification" not in architecture else "token_classify" if "Token" in architecture else "classify"
    )

    first, *others = run(worker, base, adapters, asks)

    cases = [Case(None, name, path, None) for name, path in adapters.items()]  # type: ignore[arg-type]
    said = {name: one.outcome for name, one in predictions("vllm@0.32", base, cases, tmp_path / "said.json").items()}
    expected = CLASSES[architecture]
    if isinstance(expected, str):
        assert expected in first["fails"]
        assert said == dict.fromkeys(adapters, Observed.REJECTS)
        return
    seen = {}
    for one in others:
        off = distance(np.array(one["answers"]), meant[one["name"]]) if "answers" in one else float("nan")
        told = Observed.OK if off < TOLERANCE else Observed.SERVES_WRONG
        seen[one["name"]] = Observed.REJECTS if "rejects" in one else told
    assert seen == expected
    assert said == expected
