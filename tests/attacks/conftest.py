"""What the attacks share: a machine with an adapter, a base model and secrets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli.settings import Settings
from tests.answering import answering
from tests.attacks.lying_registry import Liar
from tests.making import write_adapter, write_base_config
from tests.planted import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    write_adapter(tmp_path / "sql")
    write_base_config(tmp_path / "base")
    return Machine(tmp_path)


@pytest.fixture
def liar() -> Iterator[Liar]:
    one = Liar()
    with answering(one.reply) as url:
        one.place = url.removeprefix("http://")
        yield one


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "cache", timeout_s=5, retries=0, keep_free=0)
