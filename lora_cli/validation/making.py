"""Recipes of tensors → their bits → a safetensors file, with one tensor at a time in memory of its own."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lora_cli.core.adapter import Adapter, pair_up
from lora_cli.core.adapter_files import BESIDE, CONFIG, WEIGHTS
from lora_cli.core.keys import parse_key
from lora_cli.core.lora_config import parse_config
from lora_cli.core.safetensors import TensorInfo
from lora_cli.core.snapshot import RemoteFile
from lora_cli.reading.adapter import Opened
from lora_cli.reading.safetensors_writer import write_file
from lora_cli.reading.tensor_values import Bits, decode, encode, load
from lora_cli.repair import Draft, Made


class Originals:
    """The tensors of an adapter, read as they are asked for; the last few are held, to be asked for again."""

    KEPT = 2

    def __init__(self, one: Opened) -> None:
        self.one = one
        self._held: dict[str, Bits] = {}

    def bits(self, name: str) -> Bits:
        """The bits of the tensor of that name. Raises as ``reading.tensor_values.load``."""
        if name not in self._held:
            while len(self._held) >= self.KEPT:
                self._held.pop(next(iter(self._held)))
            self._held[name] = load(self.one.source, self.one.revision, self.one.adapter.tensors[name])
        return self._held[name]


def made_bits(made: Made, bits: Callable[[str], Bits]) -> Bits:
    """The bits of a tensor by its recipe; what is only moved is not rounded.

    Raises:
        FormatError: a tensor holds no floats that are to be scaled or rounded.
        LoraCliError: what reading raises.
    """
    if made.untouched is not None:
        return bits(made.untouched)
    if made.whole is not None:
        return encode(decode(bits(made.whole), made.source), made.dtype)
    reckoned = made.reckoned
    width = made.nbytes // max(1, made.shape[0] * made.shape[1]) if made.shape else 1
    target: Any = np.zeros(made.shape, "<f8" if reckoned else f"<u{width}")
    for block in made.blocks:
        part: Any = bits(block.tensor)[slice(*block.rows), slice(*block.columns)]
        top, left = block.at
        place = (slice(top, top + part.shape[0]), slice(left, left + part.shape[1]))
        target[place] = decode(part, made.source).astype("f8") * block.factor if reckoned else part
    return encode(target, made.dtype) if reckoned else target


def write_tensors(
    path: Path, tensors: Mapping[str, Made], metadata: Mapping[str, str], bits: Callable[[str], Bits]
) -> None:
    """Writes the tensors as a safetensors file, durably; ``bits`` gives the original of a name.

    Raises:
        OSError: as it comes.
        LoraCliError: what reading raises.
    """
    placed = _placed(tensors)
    write_file(path, placed.values(), (made_bits(tensors[name], bits).tobytes() for name in placed), metadata)


def _placed(tensors: Mapping[str, Made]) -> dict[str, TensorInfo]:
    """Each tensor in the order of their names, with its first byte and its last counted from the end of the header."""
    placed, start = {}, 0
    for name in sorted(tensors):
        made = tensors[name]
        placed[name] = TensorInfo(name, made.dtype, made.shape, start, start + made.nbytes, WEIGHTS)
        start += made.nbytes
    return placed


def as_adapter(name: str, new: Draft, old: Adapter) -> Adapter:
    """The adapter that ``new`` will be, before it is written: what the rules say of it can be asked first."""
    tensors = _placed(new.tensors)
    keys = {name: old.keys.get(name) or parse_key(name) for name in tensors}
    beside = tuple(file for file in old.files if file.path in BESIDE)
    files = (RemoteFile(CONFIG, None), RemoteFile(WEIGHTS, None), *beside)
    return replace(
        old,
        name=name,
        files=files,
        weight_files=(WEIGHTS,),
        config=parse_config(new.config),
        tensors=tensors,
        keys=keys,
        pairs=pair_up(tensors, keys),
    )
