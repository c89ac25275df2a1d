"""``lora-cli inspect --spectrum`` and ``--diff`` as whole processes: seconds and memory, beside what they may be.

    python benchmarks/spectrum.py [--runs N] [--only WORD]...

All files are in the page cache, and each process has a home of its own. Of several runs the median counts.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fetching.pairs import MIB, Command, timed

LAYERS, HIDDEN, KV, INTERMEDIATE, RANK = 32, 4096, 1024, 14336, 16
LLAMA_3_8B = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, KV),
    "self_attn.v_proj": (HIDDEN, KV),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (HIDDEN, INTERMEDIATE),
    "mlp.up_proj": (HIDDEN, INTERMEDIATE),
    "mlp.down_proj": (INTERMEDIATE, HIDDEN),
}
"""The modules of a layer: d_in and d_out."""

HEAD = f"{'work':44} {'seconds':>8} {'goal':>6}  {'':6} {'peak MiB':>9} {'goal':>6}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: at most ``most_s`` seconds of wall time and ``most_mib`` MiB of memory."""

    name: str
    most_s: float
    most_mib: float
    argv: Sequence[str]


def rows(folder: Path) -> list[Row]:
    """What is measured."""
    large, other = str(folder / "large"), str(folder / "other")
    return [
        Row("Llama-3-8B's shape, r=16, bf16: --spectrum", 3.0, 400, inspect(large, "--spectrum")),
        Row("the same, --diff with another seed", 6.0, 400, inspect(large, "--diff", other)),
        Row("the same, --diff with itself", 3.0, 400, inspect(large, "--diff", large)),
    ]


def inspect(*argv: str) -> list[str]:
    """Our command line."""
    return [sys.executable, "-m", "lora_cli", "inspect", *argv]


def made(write: Callable[[Path, int], None], directory: Path, seed: int) -> None:
    """Runs ``write`` in a process of its own: a child's peak memory counts what its parent had."""
    maker = multiprocessing.get_context("spawn").Process(target=write, args=(directory, seed))
    maker.start()
    maker.join()


def write_llama(directory: Path, seed: int) -> None:
    """An adapter of 84 MB: bfloat16, on all linear modules of a model of Llama-3-8B's shape."""
    import numpy as np

    random = np.random.default_rng(seed)
    header, parts, at = {}, [], 0
    for layer in range(LAYERS):
        for name, (d_in, d_out) in LLAMA_3_8B.items():
            for factor, shape in (("lora_A", (RANK, d_in)), ("lora_B", (d_out, RANK))):
                values = random.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
                data = (values.view("<u4") >> 16).astype("<u2").tobytes()
                key = f"base_model.model.model.layers.{layer}.{name}.{factor}.weight"
                header[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + len(data)]}
                parts.append(data)
                at += len(data)
    text = json.dumps(header).encode()
    directory.mkdir()
    (directory / "adapter_model.safetensors").write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *parts]))
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK}
    targets = [name.partition(".")[2] for name in LLAMA_3_8B]
    (directory / "adapter_config.json").write_text(json.dumps({**config, "target_modules": targets}))


def environ(place: Path) -> dict[str, str]:
    """A home of its own, and nothing else that a run could learn from."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
    return {**kept, "HOME": str(place), "HF_HUB_OFFLINE": "1"}


def line(row: Row, runs: int, folder: Path) -> str:
    """A row of the table."""
    command = Command(row.argv, environ(folder))
    timed(command, folder / "log")
    found = [timed(command, folder / "log") for _ in range(runs)]
    wall_s = statistics.median(run.wall_s for run in found)
    mib = statistics.median(run.peak_bytes for run in found) / MIB
    met = [("met" if value <= most else "MISSED") for value, most in ((wall_s, row.most_s), (mib, row.most_mib))]
    return f"{row.name:44} {wall_s:8.3f} {row.most_s:6.2f}  {met[0]:6} {mib:9.1f} {row.most_mib:6.0f}  {met[1]}"


def main() -> None:
    """Runs the rows that were asked for, and prints each when it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="how many runs of each (5)")
    parser.add_argument("--only", action="append", metavar="WORD", help="only rows whose names hold it")
    options = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start")
    print(HEAD)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        made(write_llama, folder / "large", 0)
        made(write_llama, folder / "other", 1)
        for row in rows(folder):
            if not options.only or any(word in row.name for word in options.only):
                print(line(row, options.runs, folder), flush=True)


if __name__ == "__main__":
    main()
