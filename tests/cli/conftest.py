"""Where each command runs, and the adapters that most of them are given."""

from pathlib import Path

import numpy as np
import pytest

from lora_cli.cli.main import main
from tests.cli.running import Run, Said
from tests.making import llama_modules, lora_tensors, raw, write_adapter, write_base_config


@pytest.fixture(autouse=True)
def a_folder_and_a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(line: str, code: int = 0) -> Said:
        capsys.readouterr()
        assert main(line.split()) == code
        return Said(*capsys.readouterr())

    return run


@pytest.fixture
def judged_adapters(a_folder_and_a_cache_of_its_own: None) -> None:
    """A ``base``, and ``good``; ``bad`` without its B (LC302); ``loud``, whose B is too large (LC504, a warning)."""
    write_base_config(Path("base"))
    write_adapter(Path("good"), modules=llama_modules())
    write_adapter(Path("bad"), modules=llama_modules(), drop=lambda name: "lora_B" in name)
    make_loud(1000.0)


def make_loud(factor: float) -> None:
    """Writes ``loud``, whose B has this value everywhere."""
    tensors = lora_tensors(llama_modules())
    larger = {name: raw(np.full(one.shape, factor)) for name, one in tensors.items() if "lora_B" in name}
    write_adapter(Path("loud"), modules=llama_modules(), tensors=larger)
