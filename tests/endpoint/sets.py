"""A set of two adapters for an engine, and what a run of ``warm --endpoint`` did."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.making import llama_modules, write_adapter

QUERIES = llama_modules(["q_proj", "k_proj", "v_proj"])
NAMES = ("sql", "chat")

Warm = Callable[..., tuple[int, dict[str, Any]]]


def write_set(folder: Path, *names: str, sources: Sequence[str] = ()) -> None:
    asked = zip(names, sources or [f"./{name}" for name in names], strict=True)
    entries = "".join(f"  - {{name: {name}, source: {source}}}\n" for name, source in asked)
    text = f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters:\n{entries or '  []'}"
    temporary = folder / "set.tmp"
    temporary.write_text(text)
    temporary.replace(folder / "set.yaml")


def retrain(folder: Path, **how: Any) -> None:
    """Another adapter in place of ``sql``."""
    shutil.rmtree(folder / "sql")
    write_adapter(folder / "sql", modules=QUERIES, **{"r": 4, "lora_alpha": 32, "seed": 9, **how})


def actions(document: dict[str, Any], server: int = 0) -> dict[str, str]:
    return {one["name"]: one["action"] for one in document["servers"][server]["adapters"]}
