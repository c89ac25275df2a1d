"""Runs init, fetch, validate and warm as an operator would, in .demo/ of this repository.

python manifests/quickstart/demo.py
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".demo"
ADAPTERS = [f"manifests/quickstart/{name}" for name in ("pirate", "zubrowka", "misnested")]
STEPS = [
    (["init", *ADAPTERS, "--base", "manifests/quickstart/smollm2-135m", "--engine", "vllm", "-o", ".demo/set.yaml"], 0),
    (["fetch", "-f", ".demo/set.yaml"], 0),
    (["validate", "-f", ".demo/set.yaml"], 1),
    (["warm", "-f", ".demo/set.yaml"], 1),
]
"""Each command with its exit code."""


def main() -> int:
    """0 if each command ended as it should."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    for words, expected in STEPS:
        print(f"\n$ lora-cli {' '.join(words)}", flush=True)
        command = [sys.executable, "-m", "lora_cli", "--cache-dir", str(FOLDER / "cache"), *words]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        if code != expected:
            print(f"The demo ended with exit code {code} instead of {expected}: please report this.")
            return 1
    print("\nExit code 1, as expected: misnested is broken on purpose. Manifest and lock are in .demo/.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
