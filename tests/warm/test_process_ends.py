"""How the warm process begins and ends: without torch or room, with a damaged checkpoint, and with its parent."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lora_cli.errors import Corrupt, LoraCliError, MachineError, MissingExtra, NotFound
from lora_cli.runtime.plan import Forward, Plan, TierLimits
from lora_cli.runtime.warm_process import WarmProcess
from lora_cli.runtime.worker import Worker
from tests.making import (
    Q_PROJ,
    Raw,
    safetensors_bytes,
    write_base,
    write_base_config,
)
from tests.runtime.jobs import job
from tests.runtime.reading import LLAMA

pytestmark = pytest.mark.slow


def test_slots_that_cannot_fit_are_refused_with_the_bytes_they_are_short_of() -> None:
    plan = Plan(LLAMA, tuple(LLAMA.modules), TierLimits(1 << 30, 1, 1 << 12), device="cpu")
    with (
        WarmProcess(plan) as process,
        pytest.raises(MachineError, match=r"need \d+ bytes, but \d+ are free: \d+ too few"),
    ):
        process.start()


def test_a_device_that_is_not_there_is_said_before_any_adapter() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(MachineError, match="CUDA"):
        Worker(Plan(LLAMA, (Q_PROJ,), TierLimits(1, 1, 8), device="cuda"))


def test_a_checkpoint_that_cannot_be_used_means_synthetic_weights_which_is_said_and_the_child_ends_with_the_block(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base").mkdir()
    quantised = Raw("U8", (4, 4), bytes(16))
    (tmp_path / "base" / "model.safetensors").write_bytes(safetensors_bytes({f"{Q_PROJ}.weight": quantised}))
    plan = Plan(LLAMA, (Q_PROJ,), TierLimits(1, 1, 8), tmp_path / "base", device="cpu")
    with WarmProcess(plan) as process:
        ready = process.start()
        report = process.load(job(tmp_path / "one"))
        child = process.pid
    assert ready.weights == "synthetic"
    assert "adapters are proved on synthetic base weights" in ready.notes[0]
    assert report.proof is not None
    assert (report.proof.weights, report.proof.holds) == ("synthetic", True)
    assert child is not None
    assert not runs(child)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("forward", ["modules", "model"])
def test_a_damaged_checkpoint_is_never_replaced_by_synthetic_weights(tmp_path: Path, forward: Forward) -> None:
    base = write_base(tmp_path / "base")
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    plan = Plan(LLAMA, (Q_PROJ,), TierLimits(1, 1, 8), base, device="cpu", forward=forward)
    with pytest.raises(Corrupt, match=r"checkpoint is damaged: .*truncated"):
        Worker(plan)


def test_a_whole_model_without_its_weights_is_not_found(tmp_path: Path) -> None:
    base = write_base_config(tmp_path / "base").parent
    plan = Plan(LLAMA, (Q_PROJ,), TierLimits(1, 1, 8), base, device="cpu", forward="model")
    with pytest.raises(NotFound, match=r"model\.safetensors"):
        Worker(plan)


def slow_import(begun: Path) -> str:
    """A module whose import takes a minute, and makes a file when it begins."""
    return f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep(60)\n"


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 20
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_a_child_that_does_not_end_by_itself_is_made_to(tmp_path: Path) -> None:
    process = WarmProcess(Plan(LLAMA, (Q_PROJ,), TierLimits(1, 1, 8), device="cpu"), stop_deadline_s=0.1)
    process.start()
    child = process.pid
    assert child is not None
    os.kill(child, signal.SIGSTOP)
    process.close()
    assert not runs(child)


def test_without_transformers_it_starts_and_a_parent_that_is_killed_takes_it_along(tmp_path: Path) -> None:
    (tmp_path / "transformers.py").write_text("raise ImportError('the extra warm does not install it')")
    script = """if True:
        import sys
        from tests.making import Q_PROJ
        from tests.runtime.reading import LLAMA
        from lora_cli.runtime.plan import TierLimits, Plan
        from lora_cli.runtime.warm_process import WarmProcess
        process = WarmProcess(Plan(LLAMA, (Q_PROJ,), TierLimits(1, 1, 8), device="cpu"))
        process.start()
        assert "torch" not in sys.modules
        print(process.pid, flush=True)
        sys.stdin.read()
    """
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}
    argv = [sys.executable, "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    assert ends(child)


def test_an_interrupt_does_not_wait_for_a_child_that_is_still_busy_with_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text(slow_import(tmp_path / "begun"))
    monkeypatch.syspath_prepend(tmp_path)
    interrupted = []

    def interrupt() -> None:
        wait_for(tmp_path / "begun")
        interrupted.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    process = WarmProcess(Plan(LLAMA, (Q_PROJ,), TierLimits(1, 1, 8), device="cpu"))
    with pytest.raises(KeyboardInterrupt), process:
        process.start()
    watcher.join()
    assert process.pid is None
    assert time.monotonic() - interrupted[0] < 2


def test_a_parent_that_is_killed_takes_a_child_along_that_is_still_busy_with_its_start(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(slow_import(tmp_path / "begun"))
    script = """if True:
        import sys
        from lora_cli.runtime.child_process import ChildProcess
        from lora_cli.runtime.warm_process import PROGRAM
        print(ChildProcess(PROGRAM, None).process.pid, flush=True)
        sys.stdin.read()
    """
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}
    argv = [sys.executable, "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_for(tmp_path / "begun")
        assert runs(child)
        parent.kill()
        parent.wait()
    assert ends(child)


def test_a_child_ends_in_the_middle_of_its_work_when_its_parent_is_gone_and_not_while_it_only_waits() -> None:
    script = """if True:
        import sys, time
        from lora_cli.runtime.parent_connection import end_when_orphaned
        end_when_orphaned(int(sys.argv[1]))
        print("busy", flush=True)
        time.sleep(60)
    """
    ours, theirs = socket.socketpair()
    argv = [sys.executable, "-c", script, str(theirs.fileno())]
    with subprocess.Popen(argv, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE) as child:
        theirs.close()
        assert child.stdout is not None
        assert child.stdout.readline() == b"busy\n"
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.3)
        ours.close()
        assert child.wait(5) == 0


def test_without_torch_the_extra_that_mends_it_is_named(tmp_path: Path) -> None:
    # A site directory with everything but torch: links to what is installed.
    import typer

    installed = Path(typer.__file__).parents[1]
    for entry in installed.iterdir():
        if not entry.name.startswith(("torch", "lora_cli", "__editable__", "_lora_cli")):
            (tmp_path / entry.name).symlink_to(entry)
    script = """if True:
        from tests.runtime.reading import LLAMA
        from lora_cli.errors import MissingExtra
        from lora_cli.runtime.plan import TierLimits, Plan
        from lora_cli.runtime.warm_process import WarmProcess
        try:
            WarmProcess(Plan(LLAMA, (), TierLimits(1, 1, 8)))
        except MissingExtra as error:
            print(error.message, "|", error.hint, "|", error.exit_code)
    """
    package = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == (
        "warm needs the package torch, which is not installed | pip install 'lora-cli[warm]' | 2"
    )
    assert issubclass(MissingExtra, LoraCliError)


def ends(pid: int, within_s: float = 10) -> bool:
    """Whether a process ends soon."""
    deadline = time.monotonic() + within_s
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not runs(pid)


def runs(pid: int) -> bool:
    """Whether a process runs (one that waits to be reaped does not)."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
