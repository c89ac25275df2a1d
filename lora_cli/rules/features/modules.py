"""Features of modules: pairs, packed sets, shapes, experts, name resolution, and the engine's deployment."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import gt, lt

from lora_cli.adapter.adapter import LoraPair
from lora_cli.adapter.names import WRAPPER, Key, Part, last_name
from lora_cli.engines.name_resolution import named_alike
from lora_cli.engines.profile import MERGE, PACKED, packed_in
from lora_cli.finding import Location, Outcome
from lora_cli.peft.match import highest_rank, is_fused
from lora_cli.refs.adapter_files import CONFIG
from lora_cli.rules.features import config, tensors
from lora_cli.rules.features.config import is_set
from lora_cli.rules.features.feature import Detect, EngineCase, Found
from lora_cli.rules.rule import MOST_PROBLEMS, shape
from lora_cli.text import by_key, counted, cut, names

QKV, GATE_UP = frozenset(PACKED["qkv_proj"]), frozenset(PACKED["gate_up_proj"])
NO_FACTORS = frozenset({"magnitude", "diag", "variant"})
"""Parts of LoRA variants, which are not factors under any name."""

PARTS_OF: Mapping[Part, tuple[str, Detect]] = {
    "magnitude": ("dora", is_set("use_dora")),
    "lora_bias": ("lora-bias", config.lora_bias),
    "bias": ("bias", config.bias),
    "trainable_tokens": ("trained-tokens", tensors.trained_tokens),
    "diag": ("kasa", tensors.kasa),
    "variant": ("kasa", tensors.kasa),
    "saved": ("modules-to-save", config.modules_to_save),
}
"""The feature that tensors of these parts belong to, and its detector."""

ABSENT, SHAPES = ("LC311", "LC312", "LC313"), "LC314"
"""The rules that compare an adapter's names and widths with the base without an engine."""

DIFFUSION = frozenset(
    {"down_blocks", "mid_block", "up_blocks", "unet", "transformer_blocks", "single_transformer_blocks"}
)
"""First components of module names in the models of diffusers."""

NOT_FOR_TEXT = re.compile(
    r"(?:Image|Video|Audio)\w*Classification|CTC|(?:Zero\w+)?ObjectDetection|\w*Segmentation|DepthEstimation"
    r"|MaskedImageModeling|AudioFrameClassification|XVector|QuestionAnswering|MultipleChoice|NextSentencePrediction"
)
"""Ends of the names of classes in transformers that no engine here has: for images, for sound, and some for text."""

MOST_SAVED = 64
"""Names of ``modules_to_save`` that are looked for among the tensors."""

Siblings = Mapping[str, LoraPair]


def _with_count(
    case: EngineCase, message: str, modules: Iterable[str], causes: tuple[str, ...] = ()
) -> Iterator[Found]:
    """One finding for all ``modules``, with the first one and their number."""
    all_of = list(modules)
    if all_of:
        more = f" ({counted(len(all_of), 'module')})" if len(all_of) > 1 else ""
        yield Found(f"{message}: {cut(all_of[0])}{more}", case.in_weights(all_of[0]), causes=causes)


def has_modules(message: str, is_meant: Callable[[str, LoraPair], bool]) -> Detect:
    """The detector of modules for which ``is_meant``, called with path and factors, is true."""
    return lambda case: _with_count(
        case, message, (module for module, pair in case.adapter.pairs.items() if is_meant(module, pair))
    )


def has_packed(message: str, members: frozenset[str], is_meant: Callable[[Siblings], bool]) -> Detect:
    """The detector of packed sets for which ``is_meant``, called with the adapter's modules of the set, is true.

    Nothing is found if the base does not have all ``members`` of the set as separate modules.
    """

    def detect(case: EngineCase) -> Iterator[Found]:
        base = case.base
        if base is not None and members <= {last_name(path) for path in base.modules}:
            meant = (first for first, siblings in _packed(case, members) if is_meant(siblings))
            yield from _with_count(case, message, meant)

    return detect


def _packed(case: EngineCase, members: frozenset[str]) -> Iterator[tuple[str, Siblings]]:
    """The packed sets of the adapter: (first module, all modules by last name)."""
    sets: dict[str, dict[str, LoraPair]] = {}
    for module, pair in case.adapter.pairs.items():
        parent, _, leaf = module.rpartition(".")
        if leaf in members:
            sets.setdefault(parent, {})[leaf] = pair
    return ((f"{parent}.{min(siblings)}", siblings) for parent, siblings in sets.items())


def _is_packed(module: str) -> bool:
    """Whether engines pack this module with its siblings."""
    return bool(packed_in(last_name(module)))


missing_b = has_modules("lora_B is missing", lambda _, pair: not pair.b)
missing_a = has_modules("lora_A is missing", lambda module, pair: not pair.a and not _is_packed(module))
missing_a_packed = has_modules("lora_A is missing", lambda module, pair: not pair.a and _is_packed(module))
q_without_v = has_packed("there is q_proj without v_proj", QKV, lambda has: "q_proj" in has and "v_proj" not in has)
kv_without_q = has_packed("there is no q_proj", QKV, lambda has: "q_proj" not in has)
up_without_gate = has_packed("there is up_proj without gate_proj", GATE_UP, lambda has: "gate_proj" not in has)


def packed_ranks(case: EngineCase) -> Iterator[Found]:
    """Two ranks in one packed set."""
    sets = (one for members in (QKV, GATE_UP) for one in _packed(case, members))
    mixed = [first for first, siblings in sets if len({pair.rank for pair in siblings.values()} - {None}) > 1]
    yield from _with_count(case, "the ranks of a packed set differ", mixed)


def embedding_rows(case: EngineCase) -> Iterator[Found]:
    """``lora_embedding_A`` with another number of columns than the base has tokens."""
    base = case.base
    for module, pair in case.adapter.pairs.items():
        if pair.embedding and pair.a and base and base.vocab_size and pair.a.shape[-1:] != (base.vocab_size,):
            message = f"lora_embedding_A is {shape(pair.a.shape)}, but the base has {base.vocab_size} tokens"
            yield Found(message, case.in_weights(module), causes=(SHAPES,))


def _compared(case: EngineCase, is_meant: Callable[[int, int], bool]) -> Iterator[str]:
    """Linear modules with a width for which ``is_meant(width, width in the base)`` is true."""
    modules = case.base.modules if case.base is not None else {}
    for module in case.resolution.applied:
        pair, wanted = case.adapter.pairs[module], modules.get(module)
        if wanted is not None and not pair.embedding:
            both = zip(pair.widths, (wanted.d_in, wanted.d_out), strict=True)
            if any(has is not None and is_meant(has, needs) for has, needs in both):
                yield module


def factor_flat(case: EngineCase) -> Iterator[Found]:
    """A factor that does not have two dimensions."""
    factors = ((module, one) for module, pair in case.adapter.pairs.items() for one in pair.factors)
    yield from _with_count(case, "a factor is not a matrix", (module for module, one in factors if len(one.shape) != 2))


def shape_larger(case: EngineCase) -> Iterator[Found]:
    """A factor is wider than the module, or B has more columns than the maximum rank of the engine's slots."""
    yield from _with_count(case, "a factor is wider than the base's module", _compared(case, gt), (SHAPES,))
    limit = case.deployment.max_lora_rank or case.profile.engine.default_rank
    beyond = (m for m, pair in case.adapter.pairs.items() if pair.b and len(pair.b.shape) == 2 and not pair.embedding
              and limit and pair.rank != pair.b.shape[1] > limit)  # fmt: skip
    yield from _with_count(case, f"lora_B has more than the {limit} columns of a slot", beyond)


def shape_smaller(case: EngineCase) -> Iterator[Found]:
    """A factor is narrower than the module."""
    yield from _with_count(case, "a factor is narrower than the base's module", _compared(case, lt), (SHAPES,))


def rows_reordered(case: EngineCase) -> Iterator[Found]:
    """Factors of modules whose outputs the engine's class keeps in another order than the base."""
    base, unseen = case.base, set(left_out(case))
    leaves = case.profile.engine.reordered.get(base.model_type, frozenset()) if base else frozenset()
    meant = (module for module in case.resolution.applied if last_name(module) in leaves and module not in unseen)
    yield from _with_count(case, "the engine's model has these rows in a different order", meant)


def _fused(case: EngineCase, *, by_engine: bool) -> list[str]:
    """The modules with fused experts, if the engine's model fuses experts too (``by_engine``) or does not (else).

    Without a base the engine's model counts as not fused. Modules that the deployment leaves out are ignored.
    """
    base, engine = case.base, case.profile.engine
    is_fused_there = base is not None and base.model_type in engine.fused_experts
    _, other = engine.block_names.get(base.model_type if base else "", ("", ""))
    unseen = {*left_out(case), *(module for module in case.adapter.pairs if other and other in module)}
    fused = (module for module in case.adapter.pairs if module not in unseen and is_fused(case.adapter, module))
    return list(fused) if is_fused_there == by_engine else []


def experts_fused(case: EngineCase) -> Iterator[Found]:
    """Fused factors of all experts, for an engine with separate experts."""
    yield from _with_count(case, "the experts' factors are fused", _fused(case, by_engine=False))


def experts_alone(case: EngineCase) -> Iterator[Found]:
    """Only one of the two fused parameters of the experts has factors."""
    fused = set(_fused(case, by_engine=True))
    alone = [one for one in sorted(fused) if fused.isdisjoint({one.removesuffix(WRAPPER), f"{one}{WRAPPER}"} - {one})]
    yield from _with_count(case, "one of the experts' two parameters has no factors", alone)


def experts_incomplete(case: EngineCase) -> Iterator[Found]:
    """Separate experts, but not all of them, not all of an expert's projections, or different ranks."""
    base = case.base
    blocks: dict[str, dict[str, set[tuple[str, int | None]]]] = {}
    unseen = set(left_out(case))
    for module, pair in case.adapter.pairs.items():
        head, dot, tail = module.partition(".experts.")
        index, _, leaf = tail.partition(".")
        if dot and index.isdecimal() and module not in unseen:
            blocks.setdefault(head, {}).setdefault(index, set()).add((leaf, pair.rank))
    if base is None or not blocks:
        return
    wanted = max((shape[0] for path, shape in base.parameters.items() if ".experts." in path), default=0)
    short = [
        f"{head}.experts"
        for head, experts in blocks.items()
        if len(experts) < wanted or len(set(map(frozenset, experts.values()))) > 1 or len(min(experts.values())) != 3
    ]
    yield from _with_count(case, f"some of the {wanted} experts have no factors, or different ones", short)


def rank_above_max(case: EngineCase) -> Iterator[Found]:
    """The highest rank, of the config or of a tensor, is above the maximum of the engine's slots."""
    engine, given = case.profile.engine, case.deployment.max_lora_rank
    limit = given if given is not None else engine.default_rank
    if limit is None or (known := highest_rank(case.adapter)) is None:
        return
    where, highest, at = known
    if highest <= limit:
        return
    allowed = next((rank for rank in engine.ranks if rank >= highest), None if engine.ranks else highest)
    how = f"start {engine.title} with `--max-lora-rank {allowed}`"
    mend = how if allowed is not None else f"it supports ranks up to {max(engine.ranks)}: train with a smaller rank"
    whose = "" if given is not None else f", the default of {engine.title}"
    yield Found(
        f"the rank is {highest} ({cut(where)}), but --max-lora-rank is {limit}{whose}",
        at,
        {"mend": mend, "rank": str(highest)},
    )


def _with_names(
    case: EngineCase, message: str, modules: Sequence[str], causes: tuple[str, ...] = (), **fields: str
) -> Iterator[Found]:
    if modules:
        yield Found(f"{message}: {names(modules)}", case.in_weights(modules[0]), fields, causes)


def _if_absent(case: EngineCase, modules: Iterable[str]) -> tuple[str, ...]:
    """The rules that report that modules do not exist in the base, if none of these does."""
    application = case.application
    return ABSENT if {*application.absent, *application.beyond}.issuperset(modules) else ()


def names_outside_grammar(case: EngineCase) -> Iterator[Found]:
    """Names of tensors that a strict engine cannot parse, without those for which it has another row."""
    reported = _reported(case)
    by_reason = by_key((why, name) for name, why in case.resolution.outside.items() if name not in reported)
    reasons = list(by_reason)
    kept = {key.name for key in case.other_keys if key.part in NO_FACTORS}
    for why in reasons[:MOST_PROBLEMS]:
        fields = {"mend": MERGE} if kept.issuperset(by_reason[why]) else {}
        yield from _with_names(case, f"{counted(len(by_reason[why]), 'tensor')}, {why}", by_reason[why], (), **fields)
    rest = [name for why in reasons[MOST_PROBLEMS:] for name in by_reason[why]]
    yield from _with_names(case, f"{counted(len(rest), 'more tensor')}, for other reasons", rest)


def named_twice(case: EngineCase) -> Iterator[Found]:
    """Two tensors whose names the engine takes for the same factor."""
    found = named_alike(case.adapter, case.profile.grammar)
    yield from _with_names(case, "another tensor is the same factor", found, ("LC303",))


def _reported(case: EngineCase) -> set[str]:
    """The names of the tensors for whose feature the engine rejects the adapter, which it reports."""
    rejecting = {row.feature for row in case.profile.rows if row.outcome is Outcome.REJECTS}
    parts = {part for part, (name, detect) in PARTS_OF.items() if name in rejecting and any(detect(case))}
    saved = ((case.config.modules_to_save if case.adapter.config is not None else None) or ())[:MOST_SAVED]

    def is_reported(key: Key) -> bool:
        if key.part != "saved":
            return key.part in parts
        if key.param == "bias" and not tensors.is_saved(key):
            return "bias" in parts
        if "saved-other" in rejecting:
            return tensors.is_saved(key)
        return "saved" in parts and any(f"{name}." in f"{key.module}." for name in saved)

    return {key.name for key in case.other_keys if is_reported(key)}


def unexpected_modules(case: EngineCase) -> Iterator[Found]:
    """Modules with a last name that no module of the engine's model has."""
    found = case.resolution.unexpected
    leaves = sorted({last_name(module) for module in found})
    yield from _with_names(
        case, f"{counted(len(found), 'module')} named {names(leaves)}", found, _if_absent(case, found)
    )


def nothing_lands(case: EngineCase) -> Iterator[Found]:
    """No module is in the engine's model, although it accepts all of their names."""
    missed, total = case.resolution.nowhere, case.resolution.applied_count.total
    if missed and not case.resolution.applied:
        message = f"0 of {counted(total, 'module')} apply, {next(iter(missed.values()))}"
        yield from _with_names(case, message, [*missed], _if_absent(case, missed))


def partly_lands(case: EngineCase) -> Iterator[Found]:
    """Some modules are in the engine's model, and others are not."""
    missed = case.resolution.nowhere
    if missed and case.resolution.applied:
        message = f"{case.resolution.applied_count} modules apply, {next(iter(missed.values()))}"
        yield from _with_names(case, message, [*missed], _if_absent(case, missed))


def two_into_one(case: EngineCase) -> Iterator[Found]:
    """Two modules have the same layer number and last name."""
    return _with_names(case, "two modules have the same layer and last name", case.resolution.collisions)


def tower(case: EngineCase) -> Iterator[Found]:
    """Modules of a tower, to which the engine does not apply LoRA by default."""
    found = case.resolution.towers
    return _with_names(case, f"{counted(len(found), 'module is', 'modules are')} in a tower", found)


def left_out(case: EngineCase) -> list[str]:
    """The modules without LoRA in this deployment. A packed set has LoRA if one of its modules has."""
    targets = case.deployment.lora_target_modules
    if targets is None or "all" in targets:
        return []

    def whole(module: str) -> str:
        return packed_in(last_name(module)) or last_name(module)

    wanted = {whole(target) for target in targets}
    others = [module for module in case.adapter.pairs if whole(module) not in wanted]
    return [module for module in others if not any(_under(module, target) for target in targets)]


def filtered(case: EngineCase) -> Iterator[Found]:
    """Modules without LoRA in this deployment."""
    targets = case.deployment.lora_target_modules or ()
    wanted = sorted({last_name(module) for module in case.adapter.pairs} | set(targets))
    yield from _with_names(case, f"only {names(targets)} has LoRA", left_out(case), wanted=" ".join(wanted))


def _under(module: str, target: str) -> bool:
    """Whether ``target`` matches the module; ``experts`` matches all projections of all experts."""
    return module == target or module.endswith(f".{target}") or (target == "experts" and ".experts." in module)


def base_without_lora(case: EngineCase) -> Iterator[Found]:
    """The base, or without one the class in ``auto_mapping``, is one on which the engine does not support LoRA.

    A class for images or sound is ``other_model`` then.
    """
    base = case.base
    if base is not None:
        if not case.profile.has_lora(base.architecture, base.model_type):
            architecture = cut(base.architecture or base.model_type)
            yield Found(f"the base is {cut(base.name)} ({architecture})", case.in_weights())
        return
    if any(other_model(case)):
        return
    named, library = _mapped_class(case)
    family = (
        library.removeprefix("transformers.models.").partition(".")[0] if library.startswith("transformers.") else ""
    )
    if not case.profile.has_lora(named, family):
        yield Found(f"auto_mapping names {cut(named)}", Location(CONFIG, "auto_mapping"))


def _mapped_class(case: EngineCase) -> tuple[str, str]:
    """The class of the base that ``auto_mapping`` names, and its module; empty where it names none."""
    if case.adapter.config is None:
        return "", ""
    library = (case.config.auto_mapping or {}).get("parent_library")
    return case.config.base_class, library if isinstance(library, str) else ""


def is_not_for_text(architecture: str) -> bool:
    """Whether a class of transformers is for images or sound, or has a head that no engine generates text with."""
    return NOT_FOR_TEXT.fullmatch(architecture.rpartition("For")[2]) is not None


def other_model(case: EngineCase) -> Iterator[Found]:
    """Without a base: the config or the names are those of a diffusion model, or of a class for images or sound."""
    if case.base is not None:
        return
    named, library = _mapped_class(case)
    if library.partition(".")[0] == "diffusers" or is_not_for_text(named):
        yield Found(f"auto_mapping names {cut(named)}", Location(CONFIG, "auto_mapping"))
        return
    of_diffusion = (module for module in case.adapter.pairs if module.partition(".")[0] in DIFFUSION)
    yield from _with_count(case, "a diffusion model has such modules", of_diffusion)


def pinned_beyond_slots(case: EngineCase) -> Iterator[Found]:
    """At least as many adapters are pinned as there are slots."""
    pinned, slots = case.deployment.pinned, case.deployment.max_loras
    if slots is not None and pinned >= slots:
        message = f"{counted(pinned, 'adapter is', 'adapters are')} pinned, but max_loras is {slots}"
        yield Found(message, case.in_weights(), {"slots": str(pinned + 1)})
