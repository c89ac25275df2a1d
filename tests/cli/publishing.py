"""Adapters that are published, and what vLLM's resolver would make of what is there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from lora_cli.store.materialize import MARK_FILE
from tests.making import llama_modules, write_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "acme/base-7b"
Capture = pytest.CaptureFixture[str]


def adapter(folder: str, seed: int = 1, r: int = 4, modules: Mapping[str, tuple[int, int]] | None = None) -> Path:
    modules = modules or llama_modules(("q_proj", "v_proj"))
    config = {"base_model_name_or_path": BASE}
    return write_adapter(Path(folder).absolute(), modules=modules, r=r, seed=seed, config=config)


def resolves(directory: Path, name: str, base: str) -> bool:
    """What vLLM's filesystem resolver asks of a folder before it loads it."""
    config = json.loads((directory / name / CONFIG).read_text())
    return (config["peft_type"], config["base_model_name_or_path"]) == ("LORA", base)


def publish(*argv: str) -> int:
    return main(["fetch", *argv, "--publish", "served"])


def mark(name: str = "sql") -> dict[str, Any]:
    value: dict[str, Any] = json.loads(Path("served", name, MARK_FILE).read_text())
    return value
