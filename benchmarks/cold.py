"""What a cold and a warm adapter cost on a real vLLM on the CPU: ``serve-bench --url``, as docs/serve-bench.md has it.

    make test-engines model    # once: vLLM in .venv-vllm, SmolLM2-135M in .assets
    python benchmarks/cold.py [--tiny] [--adapters 8] [--rank 64] [--requests 100] [serve-bench options]

vLLM has 2 slots and 4 places in memory: an adapter that is in neither is read from disk again. With ``--tiny`` the base
is a Llama of a few thousand parameters, whose forward takes next to nothing.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from fetching.servers import ROOT

sys.path.insert(0, str(ROOT))

from lora_cli.cli.main import main as lora_cli
from tests.real_engines.bases import SERVED, save
from tests.real_engines.vllm_server import serving

BASE = ROOT / ".assets" / "smollm2-135m"
SLOTS, MEMORY = 2, 4


def main() -> int:
    """Prints the report of ``serve-bench``; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--requests", type=int, default=100)
    asked, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="lora-cli-cold-") as temporary:
        folder = Path(temporary)
        names = [f"a{number}" for number in range(asked.adapters)]
        base = save(SERVED["llama"], folder / "base") if asked.tiny else BASE
        _write_adapters(base, [folder / name for name in names], asked.rank)
        limits = ["--max-loras", str(SLOTS), "--max-cpu-loras", str(MEMORY), "--max-lora-rank", str(asked.rank)]
        with serving(base, folder / "vllm.log", *limits) as server:
            for name in names:
                reply = server.load(name, folder / name)
                assert reply.status == 200, reply
            workload = ["--num-prompts", str(asked.requests), "--popularity", "uniform", "--input-len", "16"]
            url = ["--url", f"http://127.0.0.1:{server.port}", "--max-cpu-loras", str(MEMORY)]
            return lora_cli(["serve-bench", *url, *workload, "--output-len", "4", *more])


def _write_adapters(base: Path, folders: list[Path], rank: int) -> None:
    """The same random adapter in each folder, on every linear module, in float32."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=rank, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folders[0])
    for folder in folders[1:]:
        shutil.copytree(folders[0], folder)


if __name__ == "__main__":
    sys.exit(main())
