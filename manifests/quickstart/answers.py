"""The base's own answer beside each adapter's, on the real model: builds SmolLM2-135M-Instruct once, then asks.

python manifests/quickstart/answers.py
"""

import subprocess
import sys
from pathlib import Path

from build_model import DEFAULT, build_model

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "What is the capital of Zubrowka?"


def main() -> int:
    """The exit code of ``lora-cli warm``."""
    build_model()
    adapters = ["manifests/quickstart/pirate", "manifests/quickstart/zubrowka"]
    base = DEFAULT.relative_to(ROOT)
    command = ["warm", *adapters, "--base", str(base), "--forward", "model", "--prompt", PROMPT]
    print("$ lora-cli", " ".join(f"'{word}'" if " " in word else word for word in command), flush=True)
    return subprocess.run([sys.executable, "-m", "lora_cli", *command], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
