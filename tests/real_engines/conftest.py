"""The process that starts vLLM with one model after another."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_engines.vllm_oracle import Worker
from tests.real_engines.vllm_server import PYTHON, environ


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    command = ["nice", str(PYTHON), str(Path(__file__).with_name("vllm_worker.py"))]
    env, pipe = {**environ(), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}, subprocess.PIPE
    with (
        (tmp_path_factory.mktemp("vllm") / "worker.log").open("wb") as log,
        subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=log, text=True) as process,
    ):
        yield Worker(process)
