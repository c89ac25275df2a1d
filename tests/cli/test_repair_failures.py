"""``lora-cli repair`` on a full disk, and when it is killed: nothing of the name is there that is not whole."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lora_cli.cli.main import main
from tests.making import llama_modules, raw, write_adapter, write_base_config


@pytest.fixture
def base(tmp_path: Path) -> str:
    return str(write_base_config(tmp_path / "base"))


@pytest.fixture
def rslora(tmp_path: Path) -> str:
    """An adapter that SGLang scales wrongly."""
    return str(write_adapter(tmp_path / "rslora", modules=llama_modules(), r=16, config={"use_rslora": True}))


def test_a_full_disk_leaves_nothing_and_is_6(rslora: str, base: str, tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"
        "from lora_cli.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["repair", rslora, "--engine", "sglang", "--base", base, "--to", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert not [path.name for path in tmp_path.iterdir() if "out" in path.name]


@pytest.mark.slow
def test_one_that_is_killed_leaves_no_folder_of_that_name(base: str, tmp_path: Path) -> None:
    modules = {f"model.layers.{layer}.mlp.down_proj": (128, 64) for layer in range(2)}
    large = {f"base_model.model.{m}.lora_A.weight": raw(np.ones((4000, 128))) for m in modules}
    large |= {f"base_model.model.{m}.lora_B.weight": raw(np.ones((64, 4000))) for m in modules}
    folder = write_adapter(tmp_path / "large", modules=modules, r=4000, config={"use_rslora": True}, tensors=large)
    words = ["-m", "lora_cli", "repair", str(folder), "--engine", "sglang", "--base", base]
    for pause in (0.1, 0.2, 0.3, 0.4):
        to = tmp_path / f"out-{pause}"
        with subprocess.Popen([sys.executable, *words, "--to", str(to)], stdout=subprocess.DEVNULL) as process:
            time.sleep(pause)
            process.send_signal(signal.SIGKILL)
        assert not to.exists() or main(["validate", str(to), "--base", base, "--engine", "sglang"]) == 0
