"""One warm process for many tests: a child takes two seconds to import torch."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli.runtime.plan import Plan, TierLimits
from lora_cli.runtime.warm_process import WarmProcess
from tests.making import llama_modules, write_base
from tests.runtime.reading import LLAMA


@pytest.fixture(scope="module")
def base_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def warm(base_directory: Path) -> Iterator[WarmProcess]:
    """Two slots of rank up to 8, three places in memory, on the CPU, over the tiny llama's own weights."""
    plan = Plan(LLAMA, tuple(llama_modules()), TierLimits(2, 3, 8), base_directory, device="cpu")
    with WarmProcess(plan, deadline_s=60) as process:
        yield process
