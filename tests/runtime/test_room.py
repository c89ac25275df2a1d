"""How much memory there is: what the machine and its container leave."""

from pathlib import Path

import pytest
import torch

from lora_cli.errors import MachineError
from lora_cli.runtime import room

GIB = 1 << 30
CPU = torch.device("cpu")


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 GiB, and an empty folder that stands for the container's limits."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {64 * GIB >> 10} kB\n")
    monkeypatch.setattr(room, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(room, "CGROUP", tmp_path)
    return tmp_path


def limit(container: Path, limit: str, used: int, droppable: int) -> None:
    (container / "memory.max").write_text(f"{limit}\n")
    (container / "memory.current").write_text(f"{used}\n")
    (container / "memory.stat").write_text(f"anon 1\ninactive_anon 5\ninactive_file {droppable}\n")


def test_without_a_container_the_machine_says_what_is_free(container: Path) -> None:
    assert room.available_bytes(CPU) == 64 * GIB
    limit(container, "max", GIB, 0)
    assert room.available_bytes(CPU) == 64 * GIB


def test_a_container_leaves_what_its_limit_says_and_files_that_were_read_count_as_free(container: Path) -> None:
    limit(container, str(8 * GIB), 7 * GIB, 5 * GIB)
    assert room.available_bytes(CPU) == 6 * GIB
    limit(container, str(8 * GIB), 9 * GIB, 0)
    assert room.available_bytes(CPU) == 0


def test_what_is_short_is_said_in_bytes() -> None:
    with pytest.raises(MachineError, match="need 10 bytes, and 4 are free: 6 short"):
        room.refuse_if_short("slots", 10, 4, "fewer")
    room.refuse_if_short("slots", 10, None, "nobody knows")
