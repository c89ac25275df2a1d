"""How many bytes of a GPU an engine's slots take, by the engine's own formula: pure, from the base's modules alone.

Every engine allocates, for each module that can have LoRA, ``slots × rank × (d_in + d_out)`` elements when it starts,
whatever the adapters are that come later. Which modules those are, what tensor parallelism cuts and what is packed is
in the engines' ``SlotLayout``. The formulas were compared with the buffers that vLLM 0.32 (``lora/layers``) and
SGLang 0.5.23 (``lora/mem_pool.py``) really make.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from lora_cli.core.base_model import HALF_BYTES, BaseModel, BaseModule
from lora_cli.core.tensor_keys import last_name
from lora_cli.engines.name_resolution import FUSED, TOWERS
from lora_cli.engines.profile import VOCABULARY, Profile
from lora_cli.engines.slots import REPLICATED, ROW_PARALLEL, SlotLayout
from lora_cli.errors import UsageError

KV = ("k_proj", "v_proj")
WHOLE_QKV = "qkv_proj"


@dataclass(frozen=True, slots=True)
class Group:
    """Modules whose buffers are made together: targeting any of ``names`` makes all of them.

    ``width`` is how many elements they have for each rank, in one slot on one GPU.
    """

    names: frozenset[str]
    width: int


def groups_of(base: BaseModel, profile: Profile, tp: int = 1) -> tuple[Group, ...]:
    """All that can have LoRA in the engine's model of ``base``, in the order of the base's modules.

    Raises:
        UsageError: ``tp`` does not divide what it has to.
    """
    layout = profile.engine.slots
    assert layout is not None
    widths: Counter[frozenset[str]] = Counter()
    present = {last_name(path) for path in base.modules}
    sparse = any(FUSED.fullmatch(path) for path in base.parameters)
    shared = any("shared_expert" in path for path in base.modules)
    dense = {"gate_proj", "up_proj", "down_proj"} if layout.everywhere and sparse and not shared else set()
    for path, module in base.modules.items():
        leaf = last_name(path)
        if module.kind == "embedding" or leaf in VOCABULARY:
            if leaf in profile.grammar.vocabulary(base):
                # Whole on every GPU, but for a head whose B is cut with the vocabulary.
                cut = tp if layout.head_sharded and leaf == "lm_head" else 1
                widths[frozenset({leaf})] += module.d_in + -(-module.d_out // cut)
        elif not TOWERS.search(path) and leaf not in dense:
            widths[layout.group(leaf)] += _sharded(path, module, base, tp) + _unfilled(leaf, module, layout, present)
    for names, width in _of_parameters(base, profile, layout, tp):
        widths[names] += width
    return tuple(Group(names, width) for names, width in widths.items() if width)


def width_of(groups: Iterable[Group], targets: Collection[str] | None, layout: SlotLayout) -> int:
    """Elements for each rank of one slot: of all groups, or of those that one of ``targets`` is in."""
    if targets is None:
        return sum(group.width for group in groups)
    chosen = [group for group in groups if not group.names.isdisjoint(targets)]
    twice = layout.twice if layout.twice and layout.twice <= set(targets) else frozenset()
    return sum(group.width * (1 if group.names.isdisjoint(twice) else 2) for group in chosen)


def slot_bytes(width: int, rank: int) -> int:
    """Bytes of one slot of ``rank``, in the half precision that engines keep LoRA in."""
    return width * rank * HALF_BYTES


def own_width(modules: Iterable[Mapping[str, tuple[int, int]]]) -> int:
    """Elements for each rank of the modules that adapters themselves have: what a slot takes at least.

    Each of ``modules`` maps an adapter's module paths to (d_in, d_out).
    """
    widest: dict[str, int] = {}
    for mine in modules:
        for path, (d_in, d_out) in mine.items():
            widest[path] = max(widest.get(path, 0), d_in + d_out)
    return sum(widest.values())


def _sharded(path: str, module: BaseModule, base: BaseModel, tp: int) -> int:
    """What one GPU of ``tp`` has of the two factors of a linear module."""
    leaf = last_name(path)
    if tp == 1 or leaf in REPLICATED:
        return module.d_in + module.d_out
    if leaf in ROW_PARALLEL:
        return _divided(module.d_in, tp, path) + module.d_out
    if leaf in KV:
        return module.d_in + _heads(module.d_out, base, tp, path)
    if leaf == WHOLE_QKV:
        out = base.modules.get(path.removesuffix(WHOLE_QKV) + "o_proj")
        queries = out.d_in if out is not None else module.d_out
        rest = module.d_out - queries
        return module.d_in + _divided(queries, tp, path) + (_heads(rest, base, tp, path) if rest else 0)
    return module.d_in + _divided(module.d_out, tp, path)


def _heads(width: int, base: BaseModel, tp: int, path: str) -> int:
    """Keys' or values' part of one GPU: where there are fewer heads than GPUs, each GPU has one of them whole."""
    return _divided(width, min(tp, base.kv_heads or tp), path)


def _divided(number: int, tp: int, path: str) -> int:
    if number % tp:
        raise UsageError(f"--tp {tp} does not divide {number}, the width of {path}", hint="the engine would not start")
    return number // tp


def _unfilled(leaf: str, module: BaseModule, layout: SlotLayout, present: Collection[str]) -> int:
    """The A's that a packed whole has beyond those of the parts that this base has, counted with its first part."""
    names = layout.group(leaf)
    whole = next((name for name in names if name in layout.stacked), None)
    parts = sorted(names & set(present))
    return module.d_in * (layout.stacked[whole] - len(parts)) if whole is not None and parts[0] == leaf else 0


def _of_parameters(
    base: BaseModel, profile: Profile, layout: SlotLayout, tp: int
) -> Iterable[tuple[frozenset[str], int]]:
    """Fused experts and routers, which transformers holds as bare parameters."""
    fused = base.model_type in profile.engine.fused_experts
    seen: set[str] = set()
    for path, shape in base.parameters.items():
        leaf = last_name(path)
        if layout.routers and path.endswith((".gate.weight", ".router.weight")) and len(shape) == 2:
            yield layout.group(path.split(".")[-2]), sum(shape)
        elif leaf in layout.experts and FUSED.fullmatch(path) and len(shape) == 3:
            if layout.everywhere and leaf in seen:
                continue
            seen.add(leaf)
            inner = _divided(shape[1] * shape[2] // base.hidden_size, tp, path)
            factors = 1 if fused or leaf == "down_proj" else 2
            times = shape[0] * (base.num_layers if layout.everywhere else 1)
            yield layout.group(layout.experts[leaf]), times * (factors * base.hidden_size + inner)
