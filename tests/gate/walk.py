"""Thirty-three adapters of a bucket, a Hub and a folder, seven of them broken, and the commands over them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_cli.cli.main import main
from tests.hub_server import Hub
from tests.making import Raw, llama_modules, lora_tensors, raw, write_adapter

BASE, OTHER = "acme/tiny", "acme/other"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODULES = llama_modules(["q_proj", "v_proj"])
HEAD = f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: hf://{BASE}\n"
ENGINE = "engine: {name: vllm, version: '0.33', max_lora_rank: 64}\n"
BUCKET, HUB, FOLDER = range(20), range(20, 23), (0, 1, 2, *range(23, 30))

DEFECTS = {
    "a07": ("LC420", "use_dora"),
    "a11": ("LC324", OTHER),
    "a13": ("LC401", "the rank is 128"),
    "a17": ("LC502", "B is zero"),
    "a19": ("LC501", "NaN"),
    "a23": ("LC420", 'bias is "all"'),
    "a29": ("LC102", "truncated"),
}
"""The broken ones, with the finding of each. a11 is whole, but was trained on another base."""

Capture = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Origins:
    """Where the adapters are: the Hub, the folder of the bucket, and a local folder."""

    hub: Hub
    bucket: str
    folder: Path

    @property
    def sources(self) -> dict[str, str]:
        """Name to source of all thirty-three, as ``init`` names them in this order."""
        found = {f"a{number:02}": f"s3://{self.bucket}/a{number:02}" for number in BUCKET}
        found |= {f"a{number}": f"hf://acme/a{number}" for number in HUB}
        names = {f"a{number:02}": f"./adapters/a{number:02}" for number in FOLDER}
        return found | {f"{name}-2" if name in found else name: source for name, source in names.items()}


def write_set(sources: Mapping[str, str], head: str = HEAD + ENGINE, folder: str = ".") -> None:
    """Writes ``set.yaml`` with these adapters."""
    entries = "".join(f"  - {{name: {name}, source: '{source}'}}\n" for name, source in sources.items())
    Path(folder, "set.yaml").write_text(f"{head}adapters:\n{entries}")


def planted(folder: Path, name: str = "", seed: int = 0, **config: Any) -> Path:
    """An adapter for ``BASE``, broken as that of this name is."""
    values = {key: one for key, one in lora_tensors(MODULES).items() if "lora_B" in key}
    tensors: dict[str, Raw] = {}
    if name == "a07":
        tensors = {
            key.replace("B.weight", "magnitude_vector"): raw(np.ones(one.shape[0])) for key, one in values.items()
        }
    if name == "a17":
        tensors = {key: raw(np.zeros(one.shape)) for key, one in values.items()}
    if name == "a19":
        first, one = next(iter(values.items()))
        tensors = {first: raw(np.full(one.shape, np.nan))}
    fields: dict[str, Any] = {"base_model_name_or_path": OTHER if name == "a11" else BASE, "revision": None}
    fields |= {"use_dora": name == "a07", "bias": "all" if name == "a23" else "none", **config}
    rank = 128 if name == "a13" else 4
    made = write_adapter(folder, modules=MODULES, r=rank, seed=seed, config=fields, tensors=tensors)
    if name == "a29":
        whole = (made / WEIGHTS).read_bytes()
        (made / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def judged(capsys: Capture, code: int, *argv: str) -> dict[str, dict[str, Any]]:
    """What ``validate`` says of each adapter in JSON, by name."""
    capsys.readouterr()
    assert main(["validate", *argv, "--format", "json"]) == code, capsys.readouterr().err
    return {one["name"]: one for one in json.loads(capsys.readouterr().out)["adapters"]}


def outcomes(capsys: Capture, code: int, *argv: str) -> dict[str, str]:
    return {name: one["outcome"] for name, one in judged(capsys, code, *argv).items()}


def codes(one: dict[str, Any]) -> set[str]:
    return {found["code"] for found in one["findings"]}


def text(capsys: Capture, code: int, *argv: str) -> str:
    """All that a command says, on one line."""
    capsys.readouterr()
    assert main([*argv]) == code, capsys.readouterr()
    out, err = capsys.readouterr()
    return re.sub(r"\s+", " ", out + err)
