"""Features of modules beside each other and beside the base: pairs, packed sets, shapes, experts."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from lora_cli.core.adapter import LoraPair
from lora_cli.core.base_model import BaseModule
from lora_cli.core.finding import Location
from lora_cli.core.keys import WRAPPER
from lora_cli.core.text import counted, cut, names
from lora_cli.engines.landing import LAYER, VOCABULARY
from lora_cli.engines.profile import PACKED
from lora_cli.rules.features.feature import Found, Served
from lora_cli.rules.ranks import is_fused
from lora_cli.rules.wording import shape

QKV, GATE_UP = frozenset(PACKED["qkv_proj"]), frozenset(PACKED["gate_up_proj"])
Siblings = Mapping[str, LoraPair]


def _leaf(module: str) -> str:
    return module.rpartition(".")[2]


def packed_name(module: str) -> str:
    """What engines call the module that this one is a part of, by its last name."""
    leaf = _leaf(module)
    return next((whole for whole, parts in PACKED.items() if leaf in parts), leaf)


def _found(served: Served, said: str, modules: Iterable[str]) -> Iterator[Found]:
    """One finding for all the modules that it is true of."""
    all_of = list(modules)
    if all_of:
        more = f" ({counted(len(all_of), 'module')})" if len(all_of) > 1 else ""
        yield Found(f"{said}: {cut(all_of[0])}{more}", Location(served.case.weights_file, cut(all_of[0])))


def _packed(served: Served, members: frozenset[str]) -> Iterator[tuple[str, Siblings]]:
    """Parent and the modules of one packed set that the adapter has there."""
    sets: dict[str, dict[str, LoraPair]] = {}
    for module, pair in served.adapter.pairs.items():
        parent, _, leaf = module.rpartition(".")
        if leaf in members:
            sets.setdefault(parent, {})[leaf] = pair
    yield from sets.items()


def _packs(module: str) -> bool:
    """Whether engines keep this module in one with its siblings."""
    return _leaf(module) in QKV | GATE_UP


def packed_ranks(served: Served) -> Iterator[Found]:
    """Two ranks in one packed set."""
    mixed = []
    for members in (QKV, GATE_UP):
        for parent, siblings in _packed(served, members):
            if len({pair.rank for pair in siblings.values() if pair.rank is not None}) > 1:
                mixed.append(f"{parent}.{min(siblings)}")
    yield from _found(served, "the ranks of a packed set differ", mixed)


def layer_ranks(served: Served) -> Iterator[Found]:
    """One kind of module with different ranks in different layers."""
    ranks: dict[str, set[int]] = {}
    for module, pair in served.adapter.pairs.items():
        if pair.rank is not None and LAYER.search(module):
            ranks.setdefault(_leaf(module), set()).add(pair.rank)
    mixed = [leaf for leaf, found in ranks.items() if len(found) > 1]
    if mixed:
        said = f"the ranks of {names(mixed)} differ from layer to layer"
        yield Found(said, Location(served.case.weights_file, mixed[0]))


def missing_b(served: Served) -> Iterator[Found]:
    """A module with ``lora_A`` alone."""
    yield from _found(served, "lora_B is missing", (one.module for one in served.adapter.pairs.values() if not one.b))


def missing_a(served: Served) -> Iterator[Found]:
    """A module with ``lora_B`` alone, outside packed sets."""
    lacking = (module for module, pair in served.adapter.pairs.items() if not pair.a and not _packs(module))
    yield from _found(served, "lora_A is missing", lacking)


def missing_a_packed(served: Served) -> Iterator[Found]:
    """A module of a packed set with ``lora_B`` alone."""
    lacking = (module for module, pair in served.adapter.pairs.items() if not pair.a and _packs(module))
    yield from _found(served, "lora_A is missing", lacking)


def _sets(served: Served, members: frozenset[str], is_meant: Callable[[Siblings], bool]) -> Iterator[str]:
    base = served.case.base
    whole = {_leaf(path) for path in base.modules} if base is not None else set()
    if members <= whole:
        for parent, siblings in _packed(served, members):
            if is_meant(siblings):
                yield f"{parent}.{min(siblings)}"


def q_without_v(served: Served) -> Iterator[Found]:
    """``q_proj`` of a layer without its ``v_proj``."""
    found = _sets(served, QKV, lambda has: "q_proj" in has and "v_proj" not in has)
    yield from _found(served, "there is q_proj without v_proj", found)


def kv_without_q(served: Served) -> Iterator[Found]:
    """``k_proj`` or ``v_proj`` of a layer without its ``q_proj``."""
    yield from _found(served, "there is no q_proj", _sets(served, QKV, lambda has: "q_proj" not in has))


def up_without_gate(served: Served) -> Iterator[Found]:
    """``up_proj`` of a layer without its ``gate_proj``."""
    found = _sets(served, GATE_UP, lambda has: "gate_proj" not in has)
    yield from _found(served, "there is up_proj without gate_proj", found)


def embedding(served: Served) -> Iterator[Found]:
    """LoRA on the embedding or the head."""
    yield from _found(
        served, "there is LoRA on the vocabulary", (m for m in served.adapter.pairs if _leaf(m) in VOCABULARY)
    )


def embedding_rows(served: Served) -> Iterator[Found]:
    """``lora_embedding_A`` with another number of columns than the base has tokens."""
    base = served.case.base
    for module, pair in served.adapter.pairs.items():
        if pair.embedding and pair.a and base and base.vocab_size and pair.a.shape[-1:] != (base.vocab_size,):
            said = f"lora_embedding_A is {shape(pair.a.shape)}, and the base has {base.vocab_size} tokens"
            yield Found(said, Location(served.case.weights_file, cut(module)))


def _compared(served: Served, is_meant: Callable[[int, int], bool]) -> Iterator[str]:
    """Linear modules one of whose widths compares so with the base's."""
    base, landing = served.case.base, served.landing
    if base is None or landing is None:
        return
    for module in landing.applied:
        pair, wanted = served.adapter.pairs[module], base.modules.get(module)
        if wanted is not None and not pair.embedding and any(is_meant(*one) for one in _widths(pair, wanted)):
            yield module


def _widths(pair: LoraPair, wanted: BaseModule) -> Iterator[tuple[int, int]]:
    if pair.a is not None and len(pair.a.shape) == 2:
        yield pair.a.shape[1], wanted.d_in
    if pair.b is not None and len(pair.b.shape) == 2:
        yield pair.b.shape[0], wanted.d_out


def factor_flat(served: Served) -> Iterator[Found]:
    """A factor that does not have two dimensions."""
    factors = ((module, one) for module, pair in served.adapter.pairs.items() for one in (pair.a, pair.b) if one)
    yield from _found(served, "a factor is no matrix", (module for module, one in factors if len(one.shape) != 2))


def shape_larger(served: Served) -> Iterator[Found]:
    """A factor is wider than the module, or B has more columns than any rank that the engine's slots hold."""
    yield from _found(served, "a factor is wider than the base's module", _compared(served, lambda is_, be: is_ > be))
    limit = served.deployment.max_lora_rank or served.profile.engine.default_rank
    beyond = (m for m, pair in served.adapter.pairs.items() if pair.b and len(pair.b.shape) == 2 and not pair.embedding
              and limit and pair.rank != pair.b.shape[1] > limit)  # fmt: skip
    yield from _found(served, f"lora_B has more than the {limit} columns of a slot", beyond)


def shape_smaller(served: Served) -> Iterator[Found]:
    """A factor is narrower than the module."""
    yield from _found(
        served, "a factor is narrower than the base's module", _compared(served, lambda is_, be: is_ < be)
    )


def _has_fused(served: Served) -> bool:
    base = served.case.base
    return base is not None and base.model_type in served.profile.engine.fused_experts


def experts_fused(served: Served) -> Iterator[Found]:
    """Factors of all experts in one, for an engine whose model keeps them apart."""
    if not _has_fused(served):
        fused = (module for module in served.adapter.pairs if is_fused(served.adapter, module))
        yield from _found(served, "the experts' factors are fused", fused)


def experts_alone(served: Served) -> Iterator[Found]:
    """Of an expert's two fused parameters only one has factors."""
    fused = (
        {module for module in served.adapter.pairs if is_fused(served.adapter, module)} if _has_fused(served) else set()
    )
    alone = [one for one in sorted(fused) if fused.isdisjoint({one.removesuffix(WRAPPER), f"{one}{WRAPPER}"} - {one})]
    yield from _found(served, "one of the experts' two parameters has no factors", alone)


def experts_incomplete(served: Served) -> Iterator[Found]:
    """Experts one by one, and not all of them, or not all of an expert's projections, or not of one rank."""
    base = served.case.base
    blocks: dict[str, dict[str, set[tuple[str, int | None]]]] = {}
    for module, pair in served.adapter.pairs.items():
        head, dot, tail = module.partition(".experts.")
        index, _, leaf = tail.partition(".")
        if dot and index.isdecimal():
            blocks.setdefault(head, {}).setdefault(index, set()).add((leaf, pair.rank))
    if base is None or not blocks:
        return
    wanted = max((shape[0] for path, shape in base.parameters.items() if ".experts." in path), default=0)
    short = [
        f"{head}.experts"
        for head, experts in blocks.items()
        if len(experts) < wanted or len(set(map(frozenset, experts.values()))) > 1 or len(min(experts.values())) != 3
    ]
    yield from _found(served, f"of the {wanted} experts some have no factors, or other ones", short)
