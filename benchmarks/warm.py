"""``lora-cli warm``'s forward, loads and memory beside their peers, in pairs in one process.

    python benchmarks/warm.py [--quick] [--only forward|loads|memory|serving]...

The forward runs SmolLM2-135M (``make model`` builds it): eight requests over eight adapters of ranks 4 to 64.
The loads have an adapter of 84 MB, of Llama-3-8B's shape at rank 16 in bf16, in the page cache. Ratios are
medians over rounds that run all sides, each in an order of its own; goals in brackets would be splendid.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the warm process has it
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

MODEL = ROOT / ".assets" / "smollm2-135m"
PARTS = ("forward", "loads", "memory", "serving")


def lines(part: str, folder: Path, quick: bool) -> Iterator[str]:
    """The rows of one part."""
    if part == "forward":
        from warming import forward

        yield from forward.lines(MODEL, folder, 5 if quick else 21)
    elif part == "loads":
        from warming import loads

        yield from loads.lines(folder, 7 if quick else 31)
    elif part == "serving":
        from warming import serving

        yield from serving.lines(MODEL, folder, quick=quick)
    else:
        from warming import memory

        yield from memory.lines(MODEL, folder, 1_000 if quick else memory.CYCLES)


def main() -> None:
    """Run the parts that were asked for, and print each row when it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few rounds of each")
    parser.add_argument("--only", action="append", choices=PARTS, help="only this part")
    options = parser.parse_args()
    from warming.pairs import HEAD

    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start")
    print(HEAD)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for part in options.only or PARTS:
            for line in lines(part, Path(folder), options.quick):
                print(line, flush=True)


if __name__ == "__main__":
    main()
