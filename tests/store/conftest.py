"""The cache of each test."""

from pathlib import Path

import pytest

from lora_cli.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")
