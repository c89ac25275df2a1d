"""An adapter, read: its config, the names of its tensors, its A/B pairs; and how two of them differ.

On disk a name is ``<prefix><module>.<part>``, with ``base_model.model.`` as the prefix that PEFT writes. The parts are
those of PEFT 0.21 (``tuners/lora/layer.py``, ``tuners/lora/variants.py``, ``utils/save_and_load.py``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from lora_cli.adapter.config import PEFT_FIELDS, LoraConfig, raw_value
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.errors import FormatError
from lora_cli.refs.snapshot import RemoteFile

Part = Literal[
    "lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_bias", "magnitude", "diag", "variant",
    "trainable_tokens", "bias", "base_layer", "saved", "unknown",
]  # fmt: skip

PEFT_PREFIX = "base_model.model."

INFIXES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Path components that torch.compile, FSDP and activation checkpointing put in front of what they wrap."""

DDP_PREFIX = "module"
"""DistributedDataParallel's wrapper: only at the very start, since a model may have a component of that name."""

MARKS: dict[str, tuple[tuple[Part, str], ...]] = {
    "lora_A": (("lora_A", "weight"),),
    "lora_B": (("lora_B", "weight"), ("lora_bias", "bias")),
    "lora_embedding_A": (("lora_embedding_A", ""),),
    "lora_embedding_B": (("lora_embedding_B", ""),),
    "lora_magnitude_vector": (("magnitude", "weight"), ("magnitude", "")),
    "lora_diag": (("diag", ""),),
    "trainable_tokens_delta": (("trainable_tokens", ""),),
    **dict.fromkeys(("lora_monteclora_sampler", "lora_velora_embed"), (("variant", ""),)),
}
"""The component after a module's path → the parts, each by the name that ends it after an optional adapter name; behind
that of a variant there may be anything."""

PAIR_PARTS: frozenset[Part] = frozenset(("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"))
"""The parts that make a ``LoraPair``."""

WRAPPER = ".base_layer"
"""The suffix of a module's path under ``target_parameters``, once for each wrapper around it but one."""

ODD = re.compile("lora_|base_model|_delta|" + "|".join(INFIXES))
"""What the path of a usual module lacks: a name with it is taken apart component by component."""


@dataclass(frozen=True, slots=True)
class Key:
    """One tensor name, taken apart.

    ``module`` is the path in the base model, without prefix and infixes. Under ``target_parameters`` PEFT nests its
    wrappers, and the inner ones keep their ``.base_layer``: ``…experts.base_layer`` is the wrapper below ``…experts``.
    ``part`` says what of the module it is:

    - ``lora_A``, ``lora_B``, ``lora_embedding_A``, ``lora_embedding_B``: the factors;
    - ``lora_bias``: ``lora_B.bias``; ``magnitude``: DoRA; ``diag``: KaSA; ``variant``: MonteCLoRA and VeLoRA;
    - ``trainable_tokens``: rows of an embedding;
    - ``base_layer``: the wrapped layer's own weight, copied; ``bias``: its own bias (``bias="lora_only"``);
    - ``saved``: any other parameter of the base (``modules_to_save``, ``bias="all"``, a resized vocabulary);
    - ``unknown``: says ``lora`` but is none of these.

    ``param`` is the parameter's own name for ``saved``, ``bias`` and ``base_layer`` (``weight``, ``bias``), else empty.
    ``prefix`` is what was before the path (``""`` when it is missing, doubled when it is doubled). ``adapter_name`` is
    the infix of ``lora_A.<name>.weight``. ``infixes`` are the wrappers' components, in order.
    """

    name: str
    module: str
    part: Part
    prefix: str = PEFT_PREFIX
    adapter_name: str = ""
    infixes: tuple[str, ...] = ()
    param: str = ""

    @property
    def canonical(self) -> bool:
        """Whether the name is as PEFT writes it to disk: one prefix, no adapter name, no wrapper's component."""
        return self.prefix == PEFT_PREFIX and not self.adapter_name and not self.infixes


def last_name(module: str) -> str:
    """The last component of a module's path: ``q_proj`` of ``model.layers.0.self_attn.q_proj``."""
    return module.rpartition(".")[2]


def without_wrappers(module: str) -> str:
    """The path of the module that PEFT nests wrappers around."""
    return re.sub(r"(\.base_layer)+\Z", "", module)


def leaf_of(module: str) -> str:
    """The last name of a module, without the wrappers that PEFT nests around fused experts."""
    return last_name(without_wrappers(module))


@lru_cache(maxsize=4096)  # adapters of one base have the same names
def parse_key(name: str) -> Key:
    """Take a tensor name apart. Total: every string has a ``Key``, if only an ``unknown`` one."""
    mark: Part = "lora_A" if name.endswith(".lora_A.weight") else "lora_B"
    plain = name[len(PEFT_PREFIX) : -len(".lora_A.weight")]
    if name == f"{PEFT_PREFIX}{plain}.{mark}.weight" and not ODD.search(plain):
        return Key(name, plain, mark)
    path, infixes, prefix = name.split("."), list[str](), ""
    if path[0] == DDP_PREFIX and len(path) > 1:
        infixes.append(path.pop(0))
    infixes += [one for one in path if one in INFIXES]
    path = [one for one in path if one not in INFIXES]
    while path[:2] == ["base_model", "model"]:
        path, prefix = path[2:], prefix + PEFT_PREFIX

    def key(module: list[str], part: Part, adapter_name: str = "", param: str = "") -> Key:
        return Key(name, ".".join(module), part, prefix, adapter_name, tuple(infixes), param)

    last = next((i for i in range(len(path) - 1, 0, -1) if path[i] in MARKS), 0)
    module, rest = path[:last], path[last + 1 :]
    for part, ending in MARKS[path[last]] if last else ():
        names = rest[:-1] if ending else rest
        if part == "variant" or (len(names) <= 1 and rest[len(names) :] == [ending][: len(ending)]):
            if part == "trainable_tokens" and module[-1] == "token_adapter" and len(module) > 1:
                module.pop()
            return key(module, part, "" if part == "variant" else "".join(names))
    *module, leaf = path or [""]
    if not module or any(component.startswith("lora_") for component in path):
        return key(module, "unknown")
    if module[-1] == "base_layer" and len(module) > 1:
        return key(module[:-1], "bias" if leaf == "bias" else "base_layer", param=leaf)
    if len(module) > 2 and module[-2] == "modules_to_save":
        return key(module[:-2], "saved", module[-1], leaf)
    return key(module, "saved", param=leaf)


class Format(NamedTuple):
    """One format: what it is ("a Kohya LoRA"), and what to do with it.

    It is known by any of: ``files``, a pattern for a path; ``start``, how its first bytes begin (in small letters);
    ``keys``, a pattern that is found in the name of a tensor. Where it was found, ``file`` is what it was known by.
    """

    title: str
    advice: str
    files: str = ""
    start: tuple[bytes, ...] = ()
    keys: str = ""
    file: str = ""


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The two factors of one module's update ``s * B @ A``; either is None when the file lacks it.

    ``module`` is the path in the base model, without ``base_model.model.``.
    For a linear layer ``a`` is ``[r, d_in]`` and ``b`` is ``[d_out, r]``; for an embedding (``embedding=True``)
    ``a`` is ``[r, vocabulary]`` and ``b`` is ``[dim, r]``.
    """

    module: str
    a: TensorInfo | None
    b: TensorInfo | None
    embedding: bool = False

    @property
    def factors(self) -> tuple[TensorInfo, ...]:
        """A and B, as far as they are there."""
        return tuple(factor for factor in (self.a, self.b) if factor is not None)

    @property
    def widths(self) -> tuple[int | None, int | None]:
        """``d_in`` from A ``[r, d_in]`` and ``d_out`` from B ``[d_out, r]``; None for one that is missing or flat."""
        a, b = (one.shape if one and len(one.shape) == 2 else (None, None) for one in (self.a, self.b))
        return a[1], b[0]

    @property
    def rank(self) -> int | None:
        """The rank that the tensors themselves have, from A, else from B."""
        ranks = [one.shape[axis] for one, axis in ((self.a, 0), (self.b, 1)) if one and len(one.shape) == 2]
        return ranks[0] if ranks else None


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter, read. Nothing in it was executed, and no weight was loaded.

    ``name`` is how the user called it. ``config`` is None when there is none or it cannot be read; then
    ``config_error`` says why (None for "no such file"). The same for ``tensors`` (by full name) and ``weights_error``.
    ``weight_files`` are the files that ``tensors`` come from, in order, even when they hold none or cannot be read.
    ``keys`` has one parsed name per tensor. ``foreign`` is what it was recognised as where it is no LoRA adapter in
    PEFT's format.
    """

    name: str
    files: tuple[RemoteFile, ...] = field(repr=False)
    weight_files: tuple[str, ...]
    config: LoraConfig | None = field(repr=False)
    config_error: FormatError | None
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    weights_error: FormatError | None
    keys: Mapping[str, Key] = field(repr=False)
    pairs: Mapping[str, LoraPair] = field(repr=False)
    foreign: Format | None = None

    @property
    def has_weights(self) -> bool:
        """Whether the names and shapes of the tensors are known, and are in PEFT's format."""
        return self.foreign is None and self.weights_error is None and bool(self.weight_files)

    @property
    def pickled(self) -> bool:
        """Whether the weights that were read are a pickle."""
        return any(not path.endswith(".safetensors") for path in self.weight_files)

    @property
    def stray_weights(self) -> list[str]:
        """Safetensors files in the adapter's own folder next to its weights, which some engines load, too."""
        if self.pickled or not self.weight_files:
            return []
        paths = [file.path for file in self.files if file.path.endswith(".safetensors") and "/" not in file.path]
        return [path for path in paths if path not in self.weight_files]


def pair_up(tensors: Mapping[str, TensorInfo], keys: Mapping[str, Key]) -> dict[str, LoraPair]:
    """The A/B pairs by module path, in the order of their first tensor.

    When two names mean the same factor (``lora_A.weight`` and ``lora_A.default.weight``), the canonical one counts.
    An embedding's factors make a pair of their own only where the module has no linear ones.
    """
    factors: dict[str, dict[str, TensorInfo]] = {key.module: {} for key in keys.values() if key.part in PAIR_PARTS}
    for name, key in sorted(keys.items(), key=lambda item: not item[1].canonical):
        if key.part in PAIR_PARTS:
            factors[key.module].setdefault(key.part, tensors[name])
    pairs = {}
    for module, found in factors.items():
        embedding = not {"lora_A", "lora_B"} & found.keys()
        infix = "embedding_" if embedding else ""
        pairs[module] = LoraPair(module, found.get(f"lora_{infix}A"), found.get(f"lora_{infix}B"), embedding)
    return pairs


@dataclass(frozen=True, slots=True)
class Change:
    """A field of the configs, or a tensor by its dtype and shape, that differs; null in one that has none."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between the adapter that has this, which is A, and another one, which is B."""

    name: str
    """The other adapter's, like its source and revision."""
    source: str
    revision: str
    fields: tuple[Change, ...]
    tensors: tuple[Change, ...] | None
    """Null if the header of one adapter could not be read."""


def compare(a: Adapter, b: Adapter, source: str = "", revision: str = "") -> Comparison:
    """How ``b``, which is from ``source``, differs from ``a``; pure. No values are compared.

    PEFT's fields come first, where one that is left out has the default; then those that PEFT does not know.
    """
    fields, tensors = list[Change](), None
    if a.config is not None and b.config is not None:
        fields = [Change(name, raw_value(a.config, name), raw_value(b.config, name)) for name in PEFT_FIELDS]
        one, two = a.config.unknown, b.config.unknown
        fields += [Change(name, one.get(name), two.get(name)) for name in {**one, **two}]
    if all(one.weight_files and one.weights_error is None for one in (a, b)):
        ours, theirs = ({name: f"{it.dtype} {[*it.shape]}" for name, it in one.tensors.items()} for one in (a, b))
        changes = (Change(name, ours.get(name), theirs.get(name)) for name in {**ours, **theirs})
        tensors = tuple(one for one in changes if one.a != one.b)
    differing = tuple(one for one in fields if _plain(one.a) != _plain(one.b))
    return Comparison(b.name, source, revision, differing, tensors)


def _plain(value: Any) -> Any:
    """``value`` so that what means the same is equal: names in any order, a list and a tuple; but not true and 1."""
    if isinstance(value, tuple | list):
        return frozenset(value) if all(isinstance(one, str) for one in value) else [*map(_plain, value)]
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return (bool, value) if isinstance(value, bool) else value
