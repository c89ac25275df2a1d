"""What the attacks share: a machine with an adapter, a base model and secrets."""

from pathlib import Path

import pytest

from tests.making import write_adapter, write_base_config
from tests.planted import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    write_adapter(tmp_path / "sql")
    write_base_config(tmp_path / "base")
    return Machine(tmp_path)
