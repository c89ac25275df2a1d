"""How many modules of ours a fetch goes through: those of which a function is called, beyond what an import calls."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fetching.desk import Desk

MODULES = {"org/sql": 35, "org/sql@{}": 25}
"""The most modules that an adapter of the Hub into an empty cache goes through, and a pinned one that is cached."""

COUNTED = """
import inspect, sys, threading
from pathlib import Path

called = set()

def note(frame, event, _):
    code, module = frame.f_code, frame.f_globals.get("__name__", "")
    is_function = event == "call" and code.co_flags & inspect.CO_NEWLOCALS and code.co_filename != "<string>"
    if module.startswith("lora_cli") and module not in called and is_function and not is_imported(frame):
        called.add(module)

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
    Path("called").write_text("\\n".join(sorted(called)))
"""


def test_a_fetch_goes_through_few_modules(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", desk.hub.endpoint)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", "cache")
    for ref, most in MODULES.items():
        subprocess.run([sys.executable, "-c", COUNTED, "fetch", ref.format(desk.commit)], check=True)
        assert len((called := Path("called").read_text()).split()) <= most, called
