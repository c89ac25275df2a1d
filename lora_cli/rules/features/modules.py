"""Features of modules beside each other and beside the base: pairs, packed sets, shapes, experts."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import gt, lt

from lora_cli.core.adapter import LoraPair
from lora_cli.core.finding import Location
from lora_cli.core.keys import WRAPPER, last_name
from lora_cli.core.text import counted, cut, names
from lora_cli.engines.landing import LAYER
from lora_cli.engines.profile import PACKED, VOCABULARY, packed_in
from lora_cli.rules.features.feature import Detect, Found, Served
from lora_cli.rules.ranks import is_fused
from lora_cli.rules.wording import shape

QKV, GATE_UP = frozenset(PACKED["qkv_proj"]), frozenset(PACKED["gate_up_proj"])
Siblings = Mapping[str, LoraPair]


def _found(served: Served, said: str, modules: Iterable[str]) -> Iterator[Found]:
    """One finding for all the modules that it is true of."""
    all_of = list(modules)
    if all_of:
        more = f" ({counted(len(all_of), 'module')})" if len(all_of) > 1 else ""
        yield Found(f"{said}: {cut(all_of[0])}{more}", Location(served.case.weights_file, cut(all_of[0])))


def has_modules(said: str, is_meant: Callable[[str, LoraPair], bool]) -> Detect:
    """The detector of modules that are meant, each given by its path and its factors."""
    return lambda served: _found(
        served, said, (module for module, pair in served.adapter.pairs.items() if is_meant(module, pair))
    )


def has_packed(said: str, members: frozenset[str], is_meant: Callable[[Siblings], bool]) -> Detect:
    """The detector of packed sets that are meant, each given by the modules that the adapter has of it.

    It looks only where the base has all ``members`` of the set by themselves.
    """

    def detect(served: Served) -> Iterator[Found]:
        base = served.case.base
        if base is not None and members <= {last_name(path) for path in base.modules}:
            meant = (first for first, siblings in _packed(served, members) if is_meant(siblings))
            yield from _found(served, said, meant)

    return detect


def _packed(served: Served, members: frozenset[str]) -> Iterator[tuple[str, Siblings]]:
    """The first module, and all modules, that the adapter has of each packed set."""
    sets: dict[str, dict[str, LoraPair]] = {}
    for module, pair in served.adapter.pairs.items():
        parent, _, leaf = module.rpartition(".")
        if leaf in members:
            sets.setdefault(parent, {})[leaf] = pair
    return ((f"{parent}.{min(siblings)}", siblings) for parent, siblings in sets.items())


def _is_packed(module: str) -> bool:
    """Whether engines keep this module in one with its siblings."""
    return bool(packed_in(last_name(module)))


missing_b = has_modules("lora_B is missing", lambda _, pair: not pair.b)
missing_a = has_modules("lora_A is missing", lambda module, pair: not pair.a and not _is_packed(module))
missing_a_packed = has_modules("lora_A is missing", lambda module, pair: not pair.a and _is_packed(module))
q_without_v = has_packed("there is q_proj without v_proj", QKV, lambda has: "q_proj" in has and "v_proj" not in has)
kv_without_q = has_packed("there is no q_proj", QKV, lambda has: "q_proj" not in has)
up_without_gate = has_packed("there is up_proj without gate_proj", GATE_UP, lambda has: "gate_proj" not in has)
embedding = has_modules("there is LoRA on the vocabulary", lambda module, _: last_name(module) in VOCABULARY)


def packed_ranks(served: Served) -> Iterator[Found]:
    """Two ranks in one packed set."""
    sets = (one for members in (QKV, GATE_UP) for one in _packed(served, members))
    mixed = [first for first, siblings in sets if len({pair.rank for pair in siblings.values()} - {None}) > 1]
    yield from _found(served, "the ranks of a packed set differ", mixed)


def layer_ranks(served: Served) -> Iterator[Found]:
    """One kind of module with different ranks in different layers."""
    ranks: dict[str, set[int]] = {}
    for module, pair in served.adapter.pairs.items():
        if pair.rank is not None and LAYER.search(module):
            ranks.setdefault(last_name(module), set()).add(pair.rank)
    mixed = [leaf for leaf, found in ranks.items() if len(found) > 1]
    if mixed:
        said = f"the ranks of {names(mixed)} differ from layer to layer"
        yield Found(said, Location(served.case.weights_file, mixed[0]))


def embedding_rows(served: Served) -> Iterator[Found]:
    """``lora_embedding_A`` with another number of columns than the base has tokens."""
    base = served.case.base
    for module, pair in served.adapter.pairs.items():
        if pair.embedding and pair.a and base and base.vocab_size and pair.a.shape[-1:] != (base.vocab_size,):
            said = f"lora_embedding_A is {shape(pair.a.shape)}, and the base has {base.vocab_size} tokens"
            yield Found(said, Location(served.case.weights_file, cut(module)))


def _compared(served: Served, is_meant: Callable[[int, int], bool]) -> Iterator[str]:
    """Linear modules one of whose widths compares so with the base's."""
    modules = served.case.base.modules if served.case.base is not None else {}
    for module in served.landing.applied:
        pair, wanted = served.adapter.pairs[module], modules.get(module)
        if wanted is not None and not pair.embedding:
            both = zip(pair.widths, (wanted.d_in, wanted.d_out), strict=True)
            if any(has is not None and is_meant(has, needs) for has, needs in both):
                yield module


def factor_flat(served: Served) -> Iterator[Found]:
    """A factor that does not have two dimensions."""
    factors = ((module, one) for module, pair in served.adapter.pairs.items() for one in pair.factors)
    yield from _found(served, "a factor is no matrix", (module for module, one in factors if len(one.shape) != 2))


def shape_larger(served: Served) -> Iterator[Found]:
    """A factor is wider than the module, or B has more columns than any rank that the engine's slots hold."""
    yield from _found(served, "a factor is wider than the base's module", _compared(served, gt))
    limit = served.deployment.max_lora_rank or served.profile.engine.default_rank
    beyond = (m for m, pair in served.adapter.pairs.items() if pair.b and len(pair.b.shape) == 2 and not pair.embedding
              and limit and pair.rank != pair.b.shape[1] > limit)  # fmt: skip
    yield from _found(served, f"lora_B has more than the {limit} columns of a slot", beyond)


def shape_smaller(served: Served) -> Iterator[Found]:
    """A factor is narrower than the module."""
    yield from _found(served, "a factor is narrower than the base's module", _compared(served, lt))


def _fused(served: Served, *, by_engine: bool) -> list[str]:
    """The modules with factors of all experts in one, where the engine's model has them so or, else, keeps them apart.

    Nothing is fused by the engine where no base is known.
    """
    base = served.case.base
    is_fused_there = base is not None and base.model_type in served.profile.engine.fused_experts
    fused = (module for module in served.adapter.pairs if is_fused(served.adapter, module))
    return list(fused) if is_fused_there == by_engine else []


def experts_fused(served: Served) -> Iterator[Found]:
    """Factors of all experts in one, for an engine whose model keeps them apart."""
    yield from _found(served, "the experts' factors are fused", _fused(served, by_engine=False))


def experts_alone(served: Served) -> Iterator[Found]:
    """Of an expert's two fused parameters only one has factors."""
    fused = set(_fused(served, by_engine=True))
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
