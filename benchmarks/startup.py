"""Start-up: whole processes of lora-cli beside a typer app with one command, pair by pair.

    python benchmarks/startup.py [PAIRS]

Prints the median of each, and the median of their ratio over the pairs. The budget of ``--version`` is a ratio of 2.
Bytecode is cached, as it is for whoever installed the package; the first run of each command is not counted.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "manifests" / "quickstart"
BARE_APP = """
import typer
app = typer.Typer(add_completion=False)

@app.command()
def main(name: str = "x") -> None:
    print(name)

app(["--name", "y"])
"""
BARE = [sys.executable, "-c", BARE_APP]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
COMMANDS = {
    "--version": ["--version"],
    "--help": ["--help"],
    "validate, small adapter, values": [
        "validate",
        str(QUICKSTART / "pirate"),
        "--base",
        str(QUICKSTART / "smollm2-135m"),
    ],
    "inspect, small adapter": ["inspect", str(QUICKSTART / "pirate")],
}


def seconds(command: list[str]) -> float:
    """Wall time of one whole process, in seconds."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)
    return time.perf_counter() - started


def main() -> None:
    """Runs each command ``PAIRS`` times (default 10), each beside the bare app."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    print(f"{'command':34} {'wall ms':>8} {'bare ms':>8} {'over it':>9} {'ratio':>6}")
    for name, arguments in COMMANDS.items():
        command = [sys.executable, "-m", "lora_cli", *arguments]
        seconds(command)
        timed = [(seconds(command), seconds(BARE)) for _ in range(pairs)]
        ours, bare = (statistics.median(column) * 1e3 for column in zip(*timed, strict=True))
        over = statistics.median(one - other for one, other in timed) * 1e3
        ratio = statistics.median(one / other for one, other in timed)
        print(f"{name:34} {ours:8.1f} {bare:8.1f} {over:9.1f} {ratio:6.1f}")


if __name__ == "__main__":
    main()
