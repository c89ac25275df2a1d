"""Processes on two machines that share a cache: they fetch, publish, clean and verify, and are killed at any moment.

Of an adapter that is read meanwhile every byte is right and no file is missing; in the end all can be fetched again.
``SOAK_ROUNDS=1000`` has each of those that are killed run as many command lines (about five minutes).
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.store.materialize import MARK_FILE
from tests.hub_server import Hub
from tests.making import REMOVE, base_config, llama_modules, write_adapter
from tests.store.keeping import tree

ROUNDS = int(os.environ.get("SOAK_ROUNDS", "30"))
FETCHES = (
    "fetch org/a0 org/a1",
    "fetch PINNED",
    "fetch PINNED --to to/PINNED",
    "fetch -f set.yaml --publish published",
    "fetch -f set.yaml --upgrade --publish published",
    "validate org/a1 PINNED",
)
CLEANS = ("cache gc --max-bytes 0", "cache gc --unused-for 0s", "cache verify")
WORKS = {
    "first": (FETCHES + CLEANS, True),
    "second": (FETCHES, True),
    "third": (FETCHES, False),
    "cleaner": (CLEANS, False),
}
"""Which command lines each worker runs, one after the other, and whether they are killed."""
LONGEST_S = 60
"""After so long a command line that has not ended is one that went wrong."""
ADAPTERS = ("a0", "a1", "a2")
MACHINE = ("unshare", "-rmpu", "--fork")
"""Before a command: as on a machine of its own, it sees neither the processes nor the host name of the others."""


def work(who: str, pinned: str) -> None:
    """Runs command lines until it is over, each in a copy of this process; the first that goes wrong ends it."""
    commands, is_killed = WORKS[who]
    out, err, printed, done = (Path(f"{who}.{name}") for name in ("out", "err", "printed", "done"))
    assert run(["fetch", "org/a0", "--cache-dir", f"{who}.cache", "--publish", f"{who}.published"]) == 0
    while not Path("over").exists():
        words = random.choice(commands).replace("PINNED", random.choice(pinned.split())).split()
        with out.open("w") as one, err.open("w") as two:
            pid = os.fork()
            if pid == 0:
                signal.alarm(LONGEST_S)
                os.dup2(one.fileno(), 1)
                os.dup2(two.fileno(), 2)
                os._exit(run(words))
        if is_killed:
            time.sleep(random.expovariate(4))
            os.kill(pid, signal.SIGKILL)
        code, said = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), err.read_text()
        if code not in {0, -signal.SIGKILL} or "Traceback" in said:
            sys.exit(f"{words}: {code}\n{out.read_text()}{said}")
        with printed.open("a") as paths, done.open("a") as ended:
            paths.write(out.read_text() if code == 0 and "fetch" in words else "")
            ended.write(f"{code} {words}\n")


def run(words: list[str]) -> int:
    code = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def files_of(folder: Path) -> dict[str, bytes] | None:
    """The files of an adapter, as an engine reads them; None if it is gone, or another one has taken its place."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        descriptor, found = os.open(folder, os.O_DIRECTORY), {}
        try:
            for path in folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    found[path.name] = path.read_bytes()
            found.pop(MARK_FILE, None)
            return found if os.path.samestat(folder.stat(), os.fstat(descriptor)) else None
        finally:
            os.close(descriptor)
    return None


@pytest.mark.slow
def test_what_is_read_is_whole_whoever_fetches_publishes_cleans_and_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", "cache")
    sources = "".join(f"  - {{name: {name}, source: org/{name}}}\n" for name in ADAPTERS)
    Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters:\n{sources}")
    whole: dict[str, dict[str, bytes]] = {}
    is_apart = subprocess.run([*MACHINE, "true"], capture_output=True, check=False).returncode == 0
    with Hub() as hub, contextlib.ExitStack() as workers:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add("tiny/base", {"config.json": base_config()})
        for seed, name in enumerate(ADAPTERS * 2):
            made = write_adapter(Path("made"), modules=llama_modules(), r=64, seed=seed, config={"revision": REMOVE})
            files = {path.name: path.read_bytes() for path in made.iterdir()} | {"README.md": b"the same in all"}
            whole[f"org/{name}@{hub.add(f'org/{name}', dict(files))}"] = files
        hub.fault("GET cdn", stall_at=100_000, stall_s=0.05, times=-1)
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        running = list[subprocess.Popen[bytes]]()
        for number, who in enumerate(WORKS):
            command = [sys.executable, "-m", "tests.fetching.test_soak", who, " ".join(whole)]
            running.append(workers.enter_context(subprocess.Popen([*MACHINE * (is_apart and number % 2), *command])))
        workers.callback(Path("over").touch)
        while any(sum(1 for _ in read(f"{who}.done")) < ROUNDS for who, (_, is_killed) in WORKS.items() if is_killed):
            assert not any(worker.poll() for worker in running), capfd.readouterr().err
            for name in ADAPTERS:
                repo = hub.repos[f"org/{name}"]
                repo.branches["main"] = random.choice([*repo.commits])
            folders = {Path(line) for who in WORKS for line in read(f"{who}.printed")}
            for folder in {*folders, *Path("published").glob("[!.]*"), *Path("to/org").glob("[!.]*")}:
                found = files_of(folder)
                assert found is None or found in whole.values(), (folder, {name: len(found[name]) for name in found})
        workers.close()
        assert not any(worker.returncode for worker in running), capfd.readouterr().err
        hub.faults.clear()
        capfd.readouterr()
        assert main(["fetch", *whole]) == 0
        assert [files_of(Path(line)) for line in capfd.readouterr().out.split()] == [*whole.values()]
        assert main(["fetch", "-f", "set.yaml", "--publish", "published"]) == 0
    assert main(["cache", "verify"]) == 0
    for path in (*Path("cache/tmp").iterdir(), *Path("cache").glob(".*")):
        os.utime(path, (1, 1))
    assert main(["cache", "gc"]) == 0
    assert {path.partition("/")[0] for path in tree(Path("cache"))} == {"blobs", "refs", "snapshots"}
    assert {path.name for path in Path("published").iterdir()} == {*ADAPTERS}


def read(file: str) -> list[str]:
    return Path(file).read_text().splitlines() if Path(file).exists() else []


if __name__ == "__main__":
    work(*sys.argv[1:])
