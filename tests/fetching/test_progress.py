"""Whose lease is alive: of another PID namespace, and of a clock that jumps."""

import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lora_cli.store import Store, leases
from lora_cli.store.leases import lease
from lora_cli.store.writer_ids import Writer

HOLD = """
import sys
from pathlib import Path
from lora_cli.store import Store, leases
from lora_cli.store.leases import lease
leases.HEARTBEAT_S = 0.1
with lease(Store(Path(sys.argv[1])), "key", 1) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_process_of_another_pid_namespace_is_alive_while_it_says_so_and_dead_when_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in pods: there it is process 1 or 2, which lives here too."""
    alone = ["unshare", "-rpf", "--mount-proc"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody make a namespace")
    monkeypatch.setattr(leases, "STALE_S", 1.0)
    command = [*alone, "--kill-child", sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "True\n"
        with lease(Store(tmp_path), "key", 1.5) as held:
            assert not held
        owner.kill()
    began = time.monotonic()
    with lease(Store(tmp_path), "key", 20) as held:
        assert held
    assert time.monotonic() - began < 10


def test_a_heartbeat_from_a_clock_that_jumps_is_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "STALE_S", 0.5)
    path = Store(tmp_path).leases / "key"
    path.parent.mkdir(parents=True)
    path.write_text(str(Writer("0" * 12, 1, 1, "1" * 12)))
    done = threading.Event()

    def beat() -> None:
        now = time.time()
        for count, hours in enumerate(itertools.cycle((0, -5, 7, -300, 24))):
            if done.wait(0.1):
                return
            os.utime(path, (now, now + hours * 3600 + count))

    beating = threading.Thread(target=beat)
    beating.start()
    with lease(Store(tmp_path), "key", 2) as held:
        assert not held
    done.set()
    beating.join()
    with lease(Store(tmp_path), "key", 20) as held:
        assert held
