"""A parsed adapter: its config, its A/B pairs, and every other tensor, by name and shape."""

from collections.abc import Mapping
from dataclasses import dataclass

from lora_cli.adapter.config import LoraConfig
from lora_cli.adapter.formats import Found
from lora_cli.adapter.names import PAIR_PARTS, Key
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.errors import FormatError
from lora_cli.refs.snapshot import RemoteFile


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
    def named(self) -> dict[str, TensorInfo]:
        """The same by PEFT's names for them: ``lora_A`` and ``lora_B``, of an embedding ``lora_embedding_A`` and B."""
        infix = "embedding_" if self.embedding else ""
        known = {f"lora_{infix}A": self.a, f"lora_{infix}B": self.b}
        return {name: factor for name, factor in known.items() if factor is not None}

    @property
    def widths(self) -> tuple[int | None, int | None]:
        """``d_in`` from A ``[r, d_in]`` and ``d_out`` from B ``[d_out, r]``; None for one that is missing or flat."""
        d_in = self.a.shape[1] if self.a is not None and len(self.a.shape) == 2 else None
        d_out = self.b.shape[0] if self.b is not None and len(self.b.shape) == 2 else None
        return d_in, d_out

    @property
    def rank(self) -> int | None:
        """The rank that the tensors themselves have, from A, else from B."""
        if self.a is not None and len(self.a.shape) == 2:
            return self.a.shape[0]
        return self.b.shape[1] if self.b is not None and len(self.b.shape) == 2 else None


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter, read. Nothing in it was executed, and no weight was loaded.

    ``name`` is how the user called it. ``config`` is None when there is none or it cannot be read; then
    ``config_error`` says why (None for "no such file"). The same for ``tensors`` (by full name) and ``weights_error``.
    ``weight_files`` are the files that ``tensors`` come from, in order, even when they hold none or cannot be read.
    ``keys`` has one parsed name per tensor. ``foreign`` is what it was recognised as where it is no LoRA adapter in
    PEFT's format. ``unread`` says why weights that are there could not be looked at from here, without their fault.
    """

    name: str
    files: tuple[RemoteFile, ...]
    weight_files: tuple[str, ...]
    config: LoraConfig | None
    config_error: FormatError | None
    tensors: Mapping[str, TensorInfo]
    weights_error: FormatError | None
    keys: Mapping[str, Key]
    pairs: Mapping[str, LoraPair]
    metadata: Mapping[str, str]
    foreign: Found | None = None
    unread: str = ""

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
