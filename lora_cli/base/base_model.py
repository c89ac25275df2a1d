"""A base model without weights: which modules it has, and their dimensions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lora_cli.json_schema import EXCLUDED

WHERE = "config.json"
"""How errors call the config of a base."""

OTHER_BASE = "validate against the base that it was trained on"
"""The hint where an adapter does not fit the base."""

MAX_DIMENSION = 2**24
"""No width, vocabulary or position count of a model is larger; the largest vocabularies in use stay below 2**19."""

ModuleKind = Literal["linear", "conv1d", "embedding"]


@dataclass(frozen=True, slots=True)
class BaseModule:
    """One module that LoRA can be put on. For an embedding ``d_in`` is the vocabulary and ``d_out`` the width.

    ``conv1d`` is GPT-2's transposed linear layer: its weight is ``[d_in, d_out]``, LoRA's A and B are as for a linear.
    """

    d_in: int
    d_out: int
    kind: ModuleKind = "linear"
    bias: bool = False


@dataclass(frozen=True, slots=True)
class BaseModel:
    """Module path, as transformers names it (``model.layers.0.self_attn.q_proj``), to dimensions.

    ``parameters`` are bare parameters that PEFT's ``target_parameters`` can name (fused experts), path to shape.
    ``dtype`` is what its config says it is served in (``"bfloat16"``), ``heads`` are the heads for queries of a layer,
    ``repository`` is its name on the Hub (``org/name``), ``architecture`` the class that its config names
    (``BertModel``): empty or None if that is not known.
    """

    name: str
    model_type: str
    modules: Mapping[str, BaseModule] = field(metadata=EXCLUDED)
    num_layers: int = field(metadata=EXCLUDED)
    hidden_size: int = field(metadata=EXCLUDED)
    vocab_size: int | None = field(default=None, metadata=EXCLUDED)
    tied_embeddings: bool = field(default=False, metadata=EXCLUDED)
    parameters: Mapping[str, tuple[int, ...]] = field(default_factory=dict, metadata=EXCLUDED)
    source: str = ""
    """Where its facts come from: ``config.json (llama)``."""
    dtype: str = field(default="", metadata=EXCLUDED)
    heads: int | None = field(default=None, metadata=EXCLUDED)
    repository: str = field(default="", metadata=EXCLUDED)
    architecture: str = field(default="", metadata=EXCLUDED)

    @property
    def tied_weights(self) -> dict[str, str]:
        """The weights of output layers, to those of the embedding that they are tied to."""
        if not self.tied_embeddings:
            return {}
        embeddings = {(one.d_in, one.d_out): path for path, one in self.modules.items() if one.kind == "embedding"}
        return {
            f"{path}.weight": f"{embeddings[one.d_out, one.d_in]}.weight"
            for path, one in self.modules.items()
            if one.kind == "linear" and (one.d_out, one.d_in) in embeddings
        }
