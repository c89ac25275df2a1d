"""``lora-cli validate`` beside adaptersentry and PEFT, in pairs of whole processes.

    python benchmarks/validate.py [--quick] [--pairs N] [--only WORD]...

Every check runs, the values' too where the row says so, against the config of the base. All files are in the page
cache. adaptersentry is installed into ``.bench`` when it is first run; it reads
the weights alone, and no base.
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

from fetching import peers, servers
from fetching.counted import Counted
from fetching.pairs import MIB, Command, Compared, Run, compared, timed
from fetching.servers import ROOT

QUICKSTART = ROOT / "manifests" / "quickstart"
SMALL, SMALL_BASE = QUICKSTART / "pirate", QUICKSTART / "smollm2-135m"
WIDTH, LAYERS, RANK = 4096, 32, 20
HEAD = (
    f"{'work':34} {'goal':>6} {'ratio':>7} {'(range)':>15} {'ours s':>8} {'peer s':>8} {'ours MiB':>9}  {'':8} within"
)

PEFT_LOADS = """
import sys
from transformers import AutoConfig, AutoModelForCausalLM
from peft import PeftModel
model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(sys.argv[1]))
PeftModel.from_pretrained(model, sys.argv[2])
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: at most ``goal`` of the peer's wall time, ``most_s`` seconds and ``most_mib`` of RSS."""

    name: str
    goal: float
    most_s: float
    most_mib: float
    ours: Sequence[str]
    peer: Callable[[Path], Sequence[str]]


def write_large(directory: Path) -> None:
    """An adapter of 84 MB: float32, on q, k, v and o of 32 layers of a model 4096 wide, and that model's config.

    Runs in a process of its own: a child's peak memory counts what its parent had when it was started.
    """
    import numpy as np
    from safetensors.numpy import save_file

    random = np.random.default_rng(0)
    names = [f"model.layers.{layer}.self_attn.{part}_proj" for layer in range(LAYERS) for part in "qkvo"]
    tensors = {}
    for name in names:
        for factor, shape in (("lora_A", (RANK, WIDTH)), ("lora_B", (WIDTH, RANK))):
            values = random.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
            tensors[f"base_model.model.{name}.{factor}.weight"] = values
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors", {"format": "pt"})
    config = json.loads((SMALL / "adapter_config.json").read_text())
    fields = {"r": RANK, "target_modules": [f"{part}_proj" for part in "qkvo"]}
    (directory / "adapter_config.json").write_text(json.dumps(config | fields))
    base = {"model_type": "llama", "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 32}
    (directory.parent / "base").mkdir()
    (directory.parent / "base" / "config.json").write_text(json.dumps(base))


def write_many(directory: Path, count: int, kinds: int = 1) -> list[str]:
    """Copies of the small adapter, as hard links: one folder each, of ``kinds`` configs in turn."""
    config = json.loads((SMALL / "adapter_config.json").read_text())
    for number in range(count):
        folder = directory / f"a{number:05}"
        folder.mkdir(parents=True)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            os.link(SMALL / file, folder / file) if same_device(directory) else copy(SMALL / file, folder / file)
        if kind := number % kinds:
            (folder / "adapter_config.json").unlink()
            (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 8 + kind / 1000}))
    return [str(path) for path in sorted(directory.iterdir())]


def same_device(directory: Path) -> bool:
    """Whether the quickstart's files can be linked there."""
    return directory.stat().st_dev == SMALL.stat().st_dev


def copy(source: Path, target: Path) -> None:
    """A plain copy."""
    target.write_bytes(source.read_bytes())


def validate(*argv: str) -> list[str]:
    """Our command line."""
    return [sys.executable, "-m", "lora_cli", "validate", *argv]


def sentry(*argv: str) -> list[str]:
    """Adaptersentry's command line."""
    return [peers.tool("adaptersentry"), *argv]


def rows(folder: Path) -> list[Row]:
    """The comparisons."""
    small, large = str(SMALL / "adapter_model.safetensors"), str(folder / "large" / "adapter_model.safetensors")
    fifty = write_many(folder / "fifty", 50)
    base, big_base = ["--base", str(SMALL_BASE)], ["--base", str(folder / "base")]
    return [
        Row("small, all checks / adaptersentry", 0.30, 0.30, 45, validate(str(SMALL), *base),
            lambda _: sentry("scan", small)),
        Row("small, all checks / PEFT loads it", 0.10, 0.30, 45, validate(str(SMALL), *base),
            lambda _: [sys.executable, "-c", PEFT_LOADS, str(SMALL_BASE), str(SMALL)]),
        Row("84 MB with values / adaptersentry", 0.40, 0.60, 110, validate(str(folder / "large"), *big_base),
            lambda _: sentry("scan", large)),
        Row("50 adapters / adaptersentry batch", 0.20, 0.80, 200, validate(*fifty, *base),
            lambda place: sentry("batch", "--input-dir", str(folder / "fifty"), "--no-cache", "--workers", "2",
                                 "--output-dir", str(place / "out"))),
    ]  # fmt: skip


def ran(row: Row, pairs: int, fresh: Callable[[], Path]) -> Compared:
    """The row's pairs."""
    return compared(
        lambda place: Command(row.ours, environ(place)),
        lambda place: Command(row.peer(place), environ(place)),
        pairs,
        fresh,
    )


def line(row: Row, found: Compared) -> str:
    """A row of the table."""
    ours_s, peer_s = (found.median(side, lambda run: run.wall_s) for side in (0, 1))
    mib = found.median(0, lambda run: run.peak_bytes) / MIB
    low, high = found.spread
    met = "met" if found.ratio <= row.goal else "MISSED"
    within = f"{row.most_s} s {yes(ours_s <= row.most_s)}, {row.most_mib:.0f} MiB {yes(mib <= row.most_mib)}"
    return (
        f"{row.name:34} {row.goal:6.3f} {found.ratio:7.3f} {f'({low:.3f}-{high:.3f})':>15} {ours_s:8.3f} {peer_s:8.3f} "
        f"{mib:9.1f}  {met:8} {within}"
    )


def yes(held: bool) -> str:
    """Whether a bound held."""
    return "met" if held else "MISSED"


def crowd(folder: Path, counts: Sequence[int]) -> None:
    """Thousands of headers: how many a second, and whether memory grows with their number or with their kinds."""
    most = max(counts)
    for count, kinds in [*((count, 1) for count in counts), (most, 10), (most, most)]:
        refs = write_many(folder / f"crowd-{count}-{kinds}", count, kinds)
        listed = folder / f"crowd-{count}-{kinds}.yaml"
        entries = "".join(f"  - {{name: a{number}, source: {ref}}}\n" for number, ref in enumerate(refs))
        base = f"base: {SMALL_BASE}\n"
        listed.write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\n{base}adapters:\n{entries}")
        command = Command(validate("-f", str(listed), "--no-values", "-q"), environ(folder))
        runs: list[Run] = [timed(command, folder / "log") for _ in range(3)]
        rate = statistics.median(count / run.wall_s for run in runs)
        mib = statistics.median(run.peak_bytes for run in runs) / MIB
        told = "all alike" if kinds == 1 else f"{kinds} configs"
        print(f"{count} headers, {told}: {rate:.0f} a second, {mib:.1f} MiB", flush=True)


def remote(folder: Path) -> None:
    """The 84 MB adapter judged where it lies: what servers send for it."""
    sys.path.insert(0, str(ROOT))
    from tests.object_servers import fake_gcs

    (folder / "served" / "acme").mkdir(parents=True)
    (folder / "served" / "acme" / "large").symlink_to(folder / "large")
    files = {f"large/{file.name}": file.read_bytes() for file in (folder / "large").iterdir()}
    base = ["--base", str(folder / "base"), "--no-values"]

    def told(name: str, counted: Counted, ref: str, **environment: str) -> None:
        command = Command(validate(ref, *base), {**environ(folder), "HF_HUB_OFFLINE": "0", **environment})
        timed(command, folder / "log")
        met = yes(0 < counted.received < 200_000)
        print(f"84 MB on {name}, header only: {counted.received / 1000:.0f} kB transferred, 200 {met}", flush=True)

    passing: list[Counted] = []

    def count(ports: list[int]) -> list[int]:
        passing.append(Counted(ports))
        return passing[0].ports

    with servers.hub(folder / "served", before=count) as hub:
        told("the Hub", passing[0], "hf://acme/large", HF_ENDPOINT=hub.endpoint)
    with servers.s3(folder / "weed", folder / "served") as server:
        counted = Counted([int(server.endpoint.rpartition(":")[2])])
        endpoint = f"http://127.0.0.1:{counted.ports[0]}"
        told("S3", counted, "s3://loras/large", **{**server.environ, "AWS_ENDPOINT_URL": endpoint})
    (folder / "gcs").mkdir()
    with fake_gcs(folder / "gcs") as google:
        bucket = google.bucket()
        google.put(bucket, files)
        counted = Counted([int(google.endpoint.rpartition(":")[2])], as_host=True)
        emulator = f"http://127.0.0.1:{counted.ports[0]}"
        told("GCS", counted, f"gs://{bucket}/large", STORAGE_EMULATOR_HOST=emulator, GOOGLE_SKIP_SIGNATURE="true")


def environ(place: Path) -> dict[str, str]:
    """A home of its own, and nothing else that a run could learn from."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**kept, "HOME": str(place), "HF_HUB_OFFLINE": "1"}


def main() -> None:
    """Runs the rows that were asked for, and prints each when it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer pairs, and a tenth of the headers")
    parser.add_argument("--pairs", type=int, help="how many runs of each side (5, or 3 when quick)")
    parser.add_argument("--only", action="append", metavar="WORD", help="only rows whose names hold it")
    options = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start")
    print(HEAD)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        maker = multiprocessing.get_context("spawn").Process(target=write_large, args=(folder / "large",))
        maker.start()
        maker.join()
        numbers = iter(range(10**6))

        def fresh() -> Path:
            place = folder / f"run-{next(numbers)}"
            place.mkdir()
            return place

        for row in rows(folder):
            if options.only and not any(word in row.name for word in options.only):
                continue
            timed(Command(row.ours, environ(fresh())), folder / "log")
            print(line(row, ran(row, options.pairs or (3 if options.quick else 5), fresh)), flush=True)
        if not options.only or "headers" in options.only:
            crowd(folder, (100, 500) if options.quick else (500, 5000))
        if not options.only or "remote" in options.only:
            remote(folder)


if __name__ == "__main__":
    main()
