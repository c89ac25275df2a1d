"""How many modules of ours a fetch goes through: those of which a function is called, beyond what an import calls."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import Hub

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}
MODULES = {"cached": 38, "cold": 41}
"""The most modules that a pinned adapter which is cached goes through, and one of the Hub into an empty cache."""

COUNTED = """
import inspect, json, sys, threading
from pathlib import Path

called = {}

def note(frame, event, _):
    code, module = frame.f_code, frame.f_globals.get("__name__", "")
    if event != "call" or not module.startswith("lora_cli") or code.co_filename == "<string>":
        return
    is_function = code.co_flags & inspect.CO_NEWLOCALS
    if is_function and code.co_qualname not in called.get(module, ()) and not is_imported(frame):
        called.setdefault(module, []).append(code.co_qualname)

def is_imported(frame):
    while frame := frame.f_back:
        if frame.f_code.co_name == "<module>" and frame.f_globals["__name__"].startswith("lora_cli"):
            return True
    return False

threading.setprofile(note)
sys.setprofile(note)
try:
    from lora_cli.__main__ import run
    run()
finally:
    sys.setprofile(None)
    Path("called.json").write_text(json.dumps(called))
"""


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A reference with its commit."""
    monkeypatch.chdir(tmp_path)
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("LORA_CLI_CACHE_DIR", "cache")
        yield f"org/sql@{hub.add('org/sql', FILES)}"


def called(*words: str) -> dict[str, list[str]]:
    """The functions that a command line calls, by module."""
    subprocess.run([sys.executable, "-c", COUNTED, *words], env={**os.environ}, check=True)
    found: dict[str, list[str]] = json.loads(Path("called.json").read_text())
    return found


def test_a_fetch_goes_through_few_modules(pinned: str) -> None:
    for name, ref in (("cold", "org/sql"), ("cached", pinned)):
        found = called("fetch", ref)
        assert len(found) <= MODULES[name], "\n".join(sorted(found))
