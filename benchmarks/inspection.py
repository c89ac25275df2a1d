"""``lora-cli inspect`` of a remote adapter beside downloading and opening it, in pairs of whole processes.

    python benchmarks/inspection.py [--quick] [--pairs N] [--only WORD]...

The adapter has 84 MB and what trainers leave beside it; the servers are the test Hub and SeaweedFS on loopback, near
and behind the slow network. Then it counts what each kind of server sends. (A script that was called ``inspect.py``
would stand in for the module of the standard library in all scripts of this folder.)
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fetching import peers, servers
from fetching.counted import Counted
from fetching.pairs import MIB, Command, compared, timed
from fetching.servers import ROOT
from validate import environ, write_large, yes

LARGE = "hf://acme/large"
MOST_BYTES = 200_000
HEAD = f"{'work':42} {'goal':>6} {'ratio':>7} {'(range)':>15} {'ours s':>8} {'peer s':>8} {'ours MiB':>9}"

OPENED = """
import os, sys
from safetensors import safe_open
with safe_open(os.path.join(sys.argv[1], "adapter_model.safetensors"), "np") as file:
    print(sum(1 for name in file.keys() if file.get_slice(name).get_shape()))
"""
DOWNLOADED = f"""
import sys
from huggingface_hub import snapshot_download
sys.argv[1:] = [snapshot_download(sys.argv[1])]
{OPENED}
"""
COPIED = f"""
import subprocess, sys
subprocess.run(sys.argv[2:] + [sys.argv[1]], check=True, stdout=subprocess.DEVNULL)
{OPENED}
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: our command takes at most ``goal`` of the wall time of the peer's."""

    name: str
    goal: float
    ours: Callable[[Path], Command]
    peer: Callable[[Path], Command]


def inspect(*argv: str) -> list[str]:
    """Our command line."""
    return [sys.executable, "-m", "lora_cli", "inspect", *argv]


def write_adapter(folder: Path) -> None:
    """``folder/acme/large``: 84 MB of weights, and what trainers leave beside them."""
    place = folder / "acme" / "large"
    place.parent.mkdir(parents=True)
    maker = multiprocessing.get_context("spawn").Process(target=write_large, args=(place,))
    maker.start()
    maker.join()
    (place / "README.md").write_text("It has been trained using [TRL](https://github.com/huggingface/trl).\n" * 500)
    (place / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x" * 5000, "model_max_length": 8192}))
    (place / "trainer_state.json").write_text(json.dumps({"log_history": [{"loss": 1.0}] * 20_000}))


def command(argv: Sequence[str], place: Path, **environment: str) -> Command:
    """A command with a home of its own, which may ask the network."""
    return Command(argv, {**environ(place), "HF_HUB_OFFLINE": "0", **environment})


@contextmanager
def remote_rows(folder: Path) -> Iterator[list[Row]]:
    """Inspecting the 84 MB adapter where it is, beside downloading and opening it."""
    with ExitStack() as stack:
        rows = []
        for name, far in (("Hub", False), ("far Hub", True)):
            hub = stack.enter_context(servers.hub(folder / "served", far=far))
            rows.append(Row(f"{name}: 84 MB / snapshot_download and open", 1 / 5, *_on_hub(hub.endpoint)))
        server = stack.enter_context(servers.s3(folder / "weed", folder / "served"))
        port = int(server.endpoint.rpartition(":")[2])
        for name, at in (("S3", port), ("far S3", stack.enter_context(servers.far(port)))):
            keys = {**server.environ, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{at}"}
            rows.append(Row(f"{name}: 84 MB / aws s3 cp and open", 1 / 3 if at != port else 1 / 5, *_on_s3(keys)))
        yield rows


Side = Callable[[Path], Command]


def _on_hub(endpoint: str) -> tuple[Side, Side]:
    def peer(place: Path) -> Command:
        home = {"HF_ENDPOINT": endpoint, "HF_HOME": str(place / "hf")}
        return command([sys.executable, "-c", DOWNLOADED, "acme/large"], place, **home)

    return lambda place: command(inspect(LARGE), place, HF_ENDPOINT=endpoint), peer


def _on_s3(keys: Mapping[str, str]) -> tuple[Side, Side]:
    def peer(place: Path) -> Command:
        copy = [peers.tool("aws"), "s3", "cp", "--recursive", "s3://loras/large"]
        return command([sys.executable, "-c", COPIED, str(place / "large"), *copy], place, **keys)

    return lambda place: command(inspect("s3://loras/large"), place, **keys), peer


def transfers(folder: Path) -> None:
    """How many bytes each kind of server sends for the 84 MB adapter."""
    sys.path.insert(0, str(ROOT))
    from tests.object_servers import fake_gcs
    from tests.web_server import Site, WebServer

    def told(name: str, counted: Counted, ref: str, **environment: str) -> None:
        timed(command(inspect(ref), folder, **environment), folder / "log")
        met = yes(0 < counted.received < MOST_BYTES)
        print(f"84 MB on {name}: {counted.received / 1000:.0f} kB transferred, {MOST_BYTES // 1000} {met}", flush=True)

    passing: list[Counted] = []

    def count(ports: list[int]) -> list[int]:
        passing.append(Counted(ports))
        return passing[0].ports

    with servers.hub(folder / "served", before=count) as hub:
        told("the Hub", passing[0], LARGE, HF_ENDPOINT=hub.endpoint)
    with servers.s3(folder / "weed-counted", folder / "served") as server:
        counted = Counted([int(server.endpoint.rpartition(":")[2])])
        endpoint = f"http://127.0.0.1:{counted.ports[0]}"
        told("S3", counted, "s3://loras/large", **{**server.environ, "AWS_ENDPOINT_URL": endpoint})
    files = {f"large/{file.name}": file.read_bytes() for file in (folder / "served/acme/large").iterdir()}
    (folder / "gcs").mkdir()
    with fake_gcs(folder / "gcs") as google:
        bucket = google.bucket()
        google.put(bucket, files)
        counted = Counted([int(google.endpoint.rpartition(":")[2])], as_host=True)
        emulator = f"http://127.0.0.1:{counted.ports[0]}"
        told("GCS", counted, f"gs://{bucket}/large", STORAGE_EMULATOR_HOST=emulator, GOOGLE_SKIP_SIGNATURE="true")
    with WebServer(Site(files=files)) as web:
        counted = Counted([int(web.place.rpartition(":")[2])])
        told("a web server", counted, f"http://127.0.0.1:{counted.ports[0]}/large")


def line(row: Row, pairs: int, fresh: Callable[[], Path]) -> str:
    """A row of the table, once it was run."""
    timed(row.ours(fresh()), fresh() / "log")
    found = compared(row.ours, row.peer, pairs, fresh)
    ours_s, peer_s = (found.median(side, lambda run: run.wall_s) for side in (0, 1))
    mib = found.median(0, lambda run: run.peak_bytes) / MIB
    low, high = found.spread
    met = "met" if found.ratio <= row.goal else "MISSED"
    return (
        f"{row.name:42} {row.goal:6.3f} {found.ratio:7.3f} {f'({low:.3f}-{high:.3f})':>15} {ours_s:8.3f} {peer_s:8.3f} "
        f"{mib:9.1f}  {met}"
    )


GROUPS = (remote_rows,)
"""What makes rows: each is given the folder, and keeps its servers up as long as they are run."""


def main() -> None:
    """Runs the rows that were asked for, and prints each when it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer pairs")
    parser.add_argument("--pairs", type=int, help="how many runs of each side (5, or 3 when quick)")
    parser.add_argument("--only", action="append", metavar="WORD", help="only rows whose names hold it")
    options = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start")
    print(HEAD)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        write_adapter(folder / "served")
        numbers = iter(range(10**6))

        def fresh() -> Path:
            place = folder / f"run-{next(numbers)}"
            place.mkdir()
            return place

        for group in GROUPS:
            with group(folder) as rows:
                for row in rows:
                    if not options.only or any(word in row.name for word in options.only):
                        print(line(row, options.pairs or (3 if options.quick else 5), fresh), flush=True)
        if not options.only or "transfer" in options.only:
            transfers(folder)


if __name__ == "__main__":
    main()
