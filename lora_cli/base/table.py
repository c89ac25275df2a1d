"""The types of a family's table: rows for the modules of a model, in the field names of its config.

A dimension is an expression over the config's own field names (``"num_attention_heads * head_dim"``), so that a row
reads like the line of the modelling file that it describes. Its grammar: names and whole numbers joined by ``*`` and
``//`` (as in Python, left to right) and, binding weaker, ``+``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from lora_cli.base.base_model import ModuleKind

MAX_DIMENSION = 2**24
"""No width, vocabulary or position count of a model is larger; the largest vocabularies in use stay below 2**19."""
MAX_EXPERTS = 2**16
"""No model has more experts in one layer."""


@dataclass(frozen=True, slots=True)
class Number:
    """A whole-number field with more to it than a default.

    ``default`` is what a missing key means: a number, or an expression over the fields above it. ``null`` is what an
    explicit null means (empty: null is an error). ``aliases`` are other keys that transformers takes for the same.
    """

    default: int | str
    null: str = ""
    aliases: tuple[str, ...] = ()
    minimum: int = 1
    maximum: int = MAX_DIMENSION


Default = int | bool | str | frozenset[int] | Number
"""A field's default, whose type is the field's: number, flag, number that is an expression when missing or null,
set of layer numbers (left out when missing or null), or a ``Number`` in full."""

Fields = Mapping[str, Default]


class Values(NamedTuple):
    """A config section, read: every field of the table, with the defaults of the class filled in.

    ``layers`` holds only the lists that the config gives: what a missing one means is the family's to say.
    """

    numbers: Mapping[str, int]
    flags: Mapping[str, bool]
    layers: Mapping[str, frozenset[int]]


@dataclass(frozen=True, slots=True)
class Row:
    """One module. ``bias`` is fixed or a flag's name; ``when`` is a flag or the layer's kind (empty: always)."""

    path: str
    d_in: str
    d_out: str
    kind: ModuleKind = "linear"
    bias: bool | str = False
    when: str = ""


@dataclass(frozen=True, slots=True)
class Bare:
    """One parameter of two or more dimensions outside the modules that LoRA wraps: fused experts, routers, probes."""

    path: str
    shape: tuple[str, ...]
    when: str = ""


Rows = tuple[Row | Bare, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """The modules and parameters that one config section adds to a model.

    ``rows`` are under ``prefix``; ``layer_rows`` under ``prefix`` + ``layers`` + ``.<i>``, ``layer_count`` times;
    ``outer`` rows are at the root whatever the prefix. ``layer_kind`` gives layer ``i``'s kind where layers differ,
    ``derived`` the flags that follow from fields. ``section`` is the key of a wrapper's sub-config, ``model_type`` and
    ``also`` what it may call itself; a ``flat`` section's fields may be next to it instead, as they once did.
    """

    fields: Fields
    prefix: str
    rows: Rows
    layer_rows: Rows
    outer: Rows = ()
    layers: str = "layers"
    layer_count: str = "num_hidden_layers"
    layer_kind: Callable[[Values, int], str] | None = None
    derived: Callable[[Values], Mapping[str, bool]] | None = None
    section: str = ""
    model_type: str = ""
    also: tuple[str, ...] = ()
    flat: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """One ``model_type``: its language model, and what a wrapper has next to it.

    A ``joint`` row may use every section's fields, as ``section.field``. ``tied`` is the class default of
    ``tie_word_embeddings``, and ``tied_in`` the sections (empty: the whole config) of which any one may set it.
    ``norms`` are the last components of the paths of its norms: modules that LoRA is not put on, and that
    ``modules_to_save`` may name.
    """

    text: Part
    vision: Part | None = None
    tied: bool = False
    hidden_size: str = "hidden_size"
    joint: Rows = ()
    tied_in: tuple[str, ...] = ("",)
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm", "norm")

    @property
    def parts(self) -> tuple[Part, ...]:
        """The language model, then the vision part."""
        return (self.text, self.vision) if self.vision else (self.text,)
