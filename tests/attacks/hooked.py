"""Changes what a server's processes do: what an adapter might make them do, by its name."""

import os
from pathlib import Path

from tests.conftest import ROOT

HOOK = """import sys
if any("lora_cli.isolation" in word for word in sys.orig_argv):
    import re, time
    from lora_cli.judging import judge as judging

    fetch_one, judge_fetched = judging.fetch_one, judging.judge_fetched

    def busy(name):
        if "stuck" in name:  # one call into C, which gives the interpreter to nobody
            re.match("(a+)+b", "a" * 60)
        elif "greedy" in name:
            kept = []
            while True:
                kept.append(bytearray(b"x" * 10_000_000))
        elif "raises" in name:
            raise ZeroDivisionError("nobody" + " foresaw it")
        elif "dies" in name:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
        elif "slow" in name:
            time.sleep(1.5)
        elif "silent" in name:
            time.sleep(60)

    def fetch(item, *args, **more):
        if item.name.startswith("fetch-"):
            busy(item.name)
        return fetch_one(item, *args, **more)

    def judge(fetched, *args, **more):
        if not fetched.name.startswith("fetch-"):
            busy(fetched.name)
        return judge_fetched(fetched, *args, **more)

    judging.fetch_one, judging.judge_fetched = fetch, judge
"""


def hook(folder: Path) -> Path:
    """A folder with the hook, for ``sys.path``: ``stuck``, ``greedy``, ``raises``, ``dies``, ``slow``, ``silent``.

    An adapter of such a name is validated so, and one that begins with ``fetch-`` is fetched so.
    """
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(HOOK)
    return folder


def import_path(folder: Path) -> str:
    """``PYTHONPATH`` of a server whose processes are hooked."""
    return os.pathsep.join([str(hook(folder)), str(ROOT)])
