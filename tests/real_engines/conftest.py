"""The process that starts vLLM with one model after another."""

from collections.abc import Iterator

import pytest

from tests.real_engines.family_oracle import Worker, working


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with working(tmp_path_factory.mktemp("vllm")) as started:
        yield started
