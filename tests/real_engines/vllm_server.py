"""A real vLLM on the CPU, as a server with LoRA and loading at run time."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.real_engines.agreement import log_softmax
from tests.real_engines.bases import VOCABULARY
from tests.real_engines.cases import MAX_LORA_RANK

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
UP_S = 300
ANSWER_S = 60

ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}

LENGTHS = (3, 8, 16)
PROMPTS = [list(range(start, start + length)) for start in range(0, 64, 16) for length in LENGTHS]
"""Beginnings of the token sequences of ``peft_judge.logits``."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer: its status, and the body as text."""

    status: int
    text: str


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is up: where it listens, its process and its log."""

    port: int
    process: "subprocess.Popen[bytes]"
    log: Path

    def post(self, path: str, fields: Mapping[str, Any]) -> Reply:
        """Asks, and gives what it answered with whatever status."""
        url, body = f"http://127.0.0.1:{self.port}{path}", json.dumps(fields).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
                return Reply(response.status, response.read().decode())
        except urllib.error.HTTPError as error:
            return Reply(error.code, error.read().decode())

    def load(self, name: str, directory: Path) -> Reply:
        """``POST /v1/load_lora_adapter``."""
        return self.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(directory)})

    def unload(self, name: str) -> Reply:
        """``POST /v1/unload_lora_adapter``."""
        return self.post("/v1/unload_lora_adapter", {"lora_name": name})

    def answer(self, model: str, prompts: Sequence[list[int]]) -> Reply:
        """The log-probability of every token of the vocabulary after each prompt, as a completion of one token.

        Not ``prompt_logprobs``: where the head can have a LoRA they bring vLLM on the CPU down (0.32: "einsum():
        subscript b has size 3 ... does not broadcast").
        """
        asked = {"model": model, "prompt": [*prompts], "max_tokens": 1, "temperature": 0, "logprobs": VOCABULARY}
        return self.post("/v1/completions", {**asked, "return_tokens_as_token_ids": True})

    def answered(self, model: str, prompts: Sequence[list[int]] = PROMPTS) -> Any:
        """The same as ``[prompts, vocabulary]``."""
        reply = self.answer(model, prompts)
        assert reply.status == 200, reply
        choices = sorted(json.loads(reply.text)["choices"], key=lambda one: int(one["index"]))
        given = [choice["logprobs"]["top_logprobs"][0] for choice in choices]
        return np.array([[one[f"token_id:{token}"] for token in range(VOCABULARY)] for one in given], float)

    def alive(self) -> bool:
        """Whether it says that it is well."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=ANSWER_S) as response:
                return bool(response.status == 200)
        except OSError:
            return False


@contextlib.contextmanager
def serving(base: Path, log: Path, *arguments: str, **environment: str) -> Iterator[Server]:
    """The base at ``base``, served as ``base`` until the block is left."""
    port = free_port()
    command = [
        *(str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(base)),
        *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", "base", "--dtype", "float32"),
        *("--enforce-eager", "--max-model-len", "48", "--max-num-seqs", "16", "--max-logprobs", "128"),
        *("--enable-lora", "--max-loras", "1", "--max-cpu-loras", "2", "--max-lora-rank", str(MAX_LORA_RANK)),
        *arguments,
    ]
    with started(command, {**environ(), **environment}, log) as process:
        server = Server(port, process, log)
        wait(server)
        yield server


def environ() -> dict[str, str]:
    """What vLLM's Python is started with."""
    assert PYTHON.is_file(), "vLLM is not installed: make test-engines does that"
    return {**{name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}, **ENVIRONMENT}


@contextlib.contextmanager
def started(command: Sequence[str], env: Mapping[str, str], log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """The process until the block is left, and the engines that it started, which are of the same session."""
    with log.open("ab") as out:
        process = subprocess.Popen(["nice", *command], env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        yield process
    finally:
        for sent in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sent)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)


def wait(server: Server) -> None:
    """Until it says that it is well."""
    deadline = time.monotonic() + UP_S
    while not server.alive():
        said = server.log.read_text(errors="replace")[-4000:]
        assert server.process.poll() is None, f"it did not start:\n{said}"
        assert time.monotonic() < deadline, f"it is not up after {UP_S} s:\n{said}"
        time.sleep(0.5)


def free_port() -> int:
    """A port of loopback on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def meant(logits: Any) -> Any:
    """Log-probabilities of the logits that an adapter was made to answer with, ``[prompts, vocab]``; None of None."""
    if logits is None:
        return None
    ends = logits.numpy()[:, [length - 1 for length in LENGTHS]]
    return log_softmax(ends.reshape(-1, ends.shape[-1]))
