"""A folder with a set, and ``warm --endpoint`` run on it."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from tests.endpoint.engine import Engine
from tests.endpoint.sets import NAMES, QUERIES, Warm, write_set
from tests.making import write_adapter, write_base_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_base_config(tmp_path / "base")
    for number, name in enumerate(NAMES):
        write_adapter(tmp_path / name, modules=QUERIES, r=4, lora_alpha=8 + number, seed=number)
    write_set(tmp_path, *NAMES)
    return tmp_path


@pytest.fixture
def warm(folder: Path, capsys: pytest.CaptureFixture[str]) -> Warm:
    """Run ``warm --endpoint`` on the manifest; gives the exit code and the document."""

    def run(engine: Engine | list[Engine], *argv: object, kind: str = "") -> tuple[int, dict[str, Any]]:
        engines = engine if isinstance(engine, list) else [engine]
        at = [word for one in engines for word in ("--endpoint", one.url)]
        words = ["--cache-dir", str(folder / "cache"), "warm", "-f", str(folder / "set.yaml"), *at]
        code = main([*words, "--engine", kind or engines[0].kind, "--format", "json", *map(str, argv)])
        return code, json.loads(capsys.readouterr().out)

    return run
