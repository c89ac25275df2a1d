"""Runs the quickstart as an operator would, in a scratch cache, and expects exit 1: one adapter is broken on purpose.

python manifests/quickstart/demo.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ["warm", "-f", "manifests/quickstart.yaml"]
EXPECTED_EXIT = 1


def main() -> int:
    """0 when the demo behaved as it should."""
    print(f"$ lora-cli {' '.join(COMMAND)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="lora-cli-demo-") as cache:
        command = [sys.executable, "-m", "lora_cli", "--cache-dir", cache, *COMMAND]
        exit_code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if exit_code != EXPECTED_EXIT:
        print(f"The demo ended with exit {exit_code}, not {EXPECTED_EXIT}: that is a defect.")
        return 1
    print(
        "\nExit 1, as it should be: misnested is broken on purpose, and the others are loaded and proved all the same."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
