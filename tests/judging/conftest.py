"""An empty cache, and a base to judge adapters for."""

from pathlib import Path

import pytest

from lora_cli.base.base_model import BaseModel
from lora_cli.judging.read import open_base
from lora_cli.settings import Settings
from tests.making import write_base_config


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache")


@pytest.fixture
def base(tmp_path: Path, settings: Settings) -> BaseModel:
    return open_base(str(write_base_config(tmp_path / "base")), settings)
