"""The session that the README shows, as it is printed: a folder of adapters, a Hub with their base, and an engine.

``python -m tests.readme`` writes what each command prints into the README, and docs/terminal.svg.
"""

import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.cli.test_progress import on_a_terminal
from tests.conftest import QUICKSTART, ROOT
from tests.endpoint.engine import Engine
from tests.hub_server import Hub

README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "terminal.svg"
ADDRESS = "http://localhost:8000"
BLOCK = re.compile(r"^```console\n\$ (lora-cli .*)\n(?P<said>(?:(?!```).*\n)*)```", re.MULTILINE)


def shown() -> list[str]:
    """The commands of the README whose output it shows."""
    return [found[1] for found in BLOCK.finditer(README.read_text(encoding="utf-8")) if found["said"]]


def session(lines: list[str], *, colour: bool = False) -> Iterator[str]:
    """What each command prints on a terminal of 80 columns, one after the other in one folder."""
    with tempfile.TemporaryDirectory(prefix="lora-cli-readme-") as folder, Hub() as hub, Engine() as engine:
        hub.add("HuggingFaceTB/SmolLM2-135M-Instruct", QUICKSTART / "smollm2-135m")
        adapters = Path(folder, "my-adapters")
        for name in ("pirate", "zubrowka", "misnested"):
            shutil.copytree(QUICKSTART / name, adapters / name)
        environ = {
            **{name: value for name, value in os.environ.items() if name != "NO_COLOR"},
            **({"TERM": "xterm-256color", "FORCE_COLOR": "1"} if colour else {"TERM": "dumb", "NO_COLOR": "1"}),
            "HF_ENDPOINT": hub.endpoint,
            "LORA_CLI_CACHE_DIR": str(Path(folder, "cache")),
            "PYTHONPATH": str(ROOT),
        }

        def said(line: str) -> str:
            argv = line.replace(ADDRESS, engine.url).split()[1:]
            shown = on_a_terminal(argv, 80, 24, folder=folder, environ=environ)[1].replace("\r\n", "\n")
            return shown.replace(engine.url, ADDRESS).replace(folder, "/srv")

        said("lora-cli init ./my-adapters --engine vllm")
        yield from map(said, lines)


def shortened(said: str, as_shown: str) -> str:
    """As many lines as a block has of it that ends with an ellipsis; else all."""
    head, mark, _ = as_shown.partition("…\n")
    return "".join(said.splitlines(keepends=True)[: head.count("\n")]) + mark if mark else said


def without_numbers(text: str) -> str:
    """Text with every measured number and revision replaced and white space folded: what is the same in each run."""
    return " ".join(re.sub(r"\b[0-9a-f]{12}\b|\d+(\.\d+)?(e[+-]?\d+)?", "N", text).split())


def write() -> None:
    """Writes the outputs into the README, and the picture of its first command."""
    said = iter(list(session(shown())))
    text = README.read_text(encoding="utf-8")

    def filled(block: re.Match[str]) -> str:
        if not block["said"]:
            return block[0]
        now = shortened(next(said), block["said"])
        changed = without_numbers(now) != without_numbers(block["said"])
        return f"```console\n$ {block[1]}\n{now if changed else block['said']}```"

    README.write_text(BLOCK.sub(filled, text), encoding="utf-8")

    from rich.console import Console
    from rich.text import Text

    (first, *_) = shown()
    (coloured,) = session([first], colour=True)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(Text(f"$ {first}"), Text.from_ansi(coloured), sep="\n")
    console.save_svg(str(PICTURE), title="lora-cli", unique_id="terminal")


if __name__ == "__main__":
    write()
