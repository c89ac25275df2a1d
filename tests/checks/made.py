"""The builder of adapters that are wrong in one way each, from the cases beside it."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.making import (
    NAMES,
    Raw,
    llama_modules,
    lora_config,
    lora_tensors,
    raw,
    write_base_config,
    write_safetensors,
)

PREFIX = "base_model.model."
FIELDS = {
    "case", "modules", "layers", "r", "ranks", "prefix", "dtype", "config", "remove", "tensors", "fill", "rename",
    "drop", "write", "delete", "rename_file", "torch_save", "truncate", "link", "fifo", "base", "base_config",
    "base_folder", "family", "scope", "max_lora_rank", "deployment", "values", "ref", "name", "engine", "engines",
    "others", "counts", "expect", "skipped", "applied", "says", "hint",
}  # fmt: skip
WORDS = ("engine", "remove", "drop", "delete", "fifo", "expect", "skipped")
"""Fields that are several words."""
LLAMA = {path.rpartition(".")[2]: path.partition(".layers.0.")[2] for path in llama_modules(layers=1)}


def all_cases(of: str) -> Iterator[Mapping[str, Any]]:
    """The cases of ``rules``, or those for all ``engines``."""
    folder = Path(__file__).parent / "cases"
    for file in sorted((folder if of == "rules" else folder / "serving").glob("*.yaml")):
        cases = yaml.load(text := file.read_text(), yaml.CSafeLoader)
        assert len(cases) == len(re.findall(r"^[^ #\n]", text, re.MULTILINE)), f"two cases of {file.name} have one name"
        for name, case in cases.items():
            assert case.keys() <= FIELDS, f"{name} has an unknown field"
            yield {"case": name, **case, **{key: case[key].split() for key in WORDS if key in case}}


def base_directory(case: Mapping[str, Any], directory: Path) -> Path:
    """The base of the case's family, with the fields that the case gives."""
    written = write_base_config(directory / case.get("base_folder", ""), case.get("base", "llama"))
    written.write_text(json.dumps(json.loads(written.read_text()) | case.get("base_config", {})))
    return written


def made(case: Mapping[str, Any], directory: Path) -> None:
    """The adapter of the case: a good one, then changed as the case says."""
    directory.mkdir(parents=True)
    modules = chosen_modules(case.get("modules", "0.q_proj"), case.get("layers", 2))
    r, dtype, prefix = case.get("r", 4), case.get("dtype", "float32"), case.get("prefix", PREFIX)
    ranks = {whole(name): rank for name, rank in case.get("ranks", {}).items()}
    tensors = lora_tensors(modules, r=r, ranks=ranks, dtype=dtype, prefix=prefix)
    tensors |= {whole(name, PREFIX): tensor(spec) for name, spec in case.get("tensors", {}).items()}
    tensors = {renamed(name, case.get("rename", {})): one for name, one in tensors.items()}
    for part, value in case.get("fill", {}).items():
        names = [name for name in tensors if whole(part, PREFIX) in name]
        filled = {name: raw(np.full(tensors[name].shape, value), dtype) for name in names}
        assert filled, f"{case['case']} fills no tensor"
        tensors |= filled
    for name in case.get("drop", ()):
        del tensors[whole(name, PREFIX)]
    write_safetensors(directory / "adapter_model.safetensors", tensors)
    fields = lora_config(modules, r=r) | scope(modules, case) | case.get("config", {})
    for name in case.get("remove", ()):
        del fields[name]
    (directory / "adapter_config.json").write_text(json.dumps(fields))
    change_files(case, directory)


def scope(modules: Mapping[str, Any], case: Mapping[str, Any]) -> dict[str, Any]:
    """Small adapters are on one layer only: unless the case says otherwise, the config of those says so."""
    layers = {int(part) for module in modules for part in module.split(".") if part.isdecimal()}
    return {} if "scope" in case or len(layers) != 1 else {"layers_to_transform": sorted(layers)}


def chosen_modules(spec: Any, layers: int) -> Mapping[str, tuple[int, int]]:
    """The modules of ``all``, ``none``, ``q_proj v_proj`` or ``0.q_proj``, or by name with their widths."""
    if isinstance(spec, dict):
        return {whole(name): tuple(widths) for name, widths in spec.items()}
    if spec in {"all", "none"}:
        return llama_modules(layers=layers) if spec == "all" else {}
    every, words = llama_modules(layers=layers), spec.split()
    return {whole(word): every[whole(word)] for word in words} if "." in spec else llama_modules(words, layers)


def whole(name: str, prefix: str = "") -> str:
    """``0.q_proj`` as Llama calls it, behind the prefix; a name that begins with no number is whole."""
    layer, _, rest = name.partition(".")
    kind, dot, end = rest.partition(".")
    return f"{prefix}model.layers.{layer}.{LLAMA.get(kind, kind)}{dot}{end}" if layer.isdecimal() else name


def tensor(spec: Any) -> Raw:
    dtype, shape = (spec["dtype"], spec["shape"]) if isinstance(spec, dict) else (NAMES["float32"], spec)
    if dtype == NAMES["float32"]:
        return raw(np.full(shape, 0.02))
    return Raw(dtype, tuple(shape), b"\1" * int(np.prod(shape)))


def renamed(name: str, replacements: Mapping[str, str]) -> str:
    for old, new in replacements.items():
        name = name.replace(old, new)
    return name


def change_files(case: Mapping[str, Any], directory: Path) -> None:
    for old, new in case.get("torch_save", {}).items():
        import torch
        from safetensors.torch import load_file

        torch.save(load_file(directory / old), directory / new)
        (directory / old).unlink()
    for name in case.get("delete", ()):
        (directory / name).unlink()
    for old, new in case.get("rename_file", {}).items():
        (directory / old).rename(directory / new)
    for name, text in case.get("write", {}).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1") if isinstance(text, str) else text)
    for name, size in case.get("truncate", {}).items():
        os.truncate(directory / name, size if size >= 0 else (directory / name).stat().st_size + size)
    for name, target in case.get("link", {}).items():
        (directory / name).symlink_to(target)
    for name in case.get("fifo", ()):
        os.mkfifo(directory / name)
